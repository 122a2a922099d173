from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scratch
import torch

from tuneledger.errors import UserError
from tuneledger.learn.datamodule import Batches, EpochBatches, ResumableLoader, to_tensors
from tuneledger.text.batches import TokenizedSplit, training_batches

LENGTHS = np.array([3, 1, 2, 4, 1, 5, 2])


def expected(epoch: int) -> list[list[int]]:
    batches = training_batches(LENGTHS, 2, group_by_length=True, seed=3, epoch=epoch)
    return [rows.tolist() for rows in batches]


class Numbers:
    """A data set whose batches are the numbers of their rows."""

    def __getitem__(self, rows: np.ndarray) -> list[int]:
        return rows.tolist()


def make_loader() -> ResumableLoader:
    """Batches of two of seven rows."""
    return ResumableLoader(Numbers(), EpochBatches(LENGTHS, 2, True, 3))


class TestEpochBatches:
    def test_counts_the_short_batch(self):
        assert len(EpochBatches(LENGTHS, 2, True, 3)) == 4
        assert len(EpochBatches(LENGTHS, 7, True, 3)) == 1

    def test_epoch_and_start(self):
        batches = EpochBatches(LENGTHS, 2, True, 3)
        assert [rows.tolist() for rows in batches] == expected(0)
        batches.epoch, batches.start = 2, 3
        assert [rows.tolist() for rows in batches] == expected(2)[3:]
        assert len(batches) == 4


class TestResumableLoader:
    def test_every_pass_is_the_next_epoch(self):
        loader = make_loader()
        assert [list(loader) for _ in range(3)] == [expected(0), expected(1), expected(2)]

    def test_a_state_in_the_middle_goes_on_there_and_then_with_whole_epochs(self):
        loader = make_loader()
        list(loader)
        passing = iter(loader)
        next(passing), next(passing), next(passing)
        state = loader.state_dict()
        assert state == {"epoch": 1, "batches": 3}
        other = make_loader()
        other.load_state_dict(state)
        assert list(other) == expected(1)[3:]
        assert list(other) == expected(2)

    def test_a_state_at_the_end_goes_on_with_the_next_epoch(self):
        loader = make_loader()
        list(loader)
        state = loader.state_dict()
        assert state == {"epoch": 1, "batches": 0}
        other = make_loader()
        other.load_state_dict(state)
        assert list(other) == expected(1)

    def test_the_state_counts_on_after_a_resume(self):
        loader = make_loader()
        loader.load_state_dict({"epoch": 4, "batches": 1})
        next(iter(loader))
        assert loader.state_dict() == {"epoch": 4, "batches": 2}


def make_batches(few, **loader) -> Batches:
    train, validation = (TokenizedSplit(few / f"{split}.arrow") for split in ("train", "validation"))
    batches = Batches(train, validation, ["no", "yes"], 0, 64, 1, **{**scratch.LOADER, **loader})
    batches.trainer = trainer_after(0)
    return batches


def trainer_after(processed: int, process: int = 0, processes: int = 1) -> SimpleNamespace:
    total = SimpleNamespace(total=SimpleNamespace(processed=processed))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=total))
    return SimpleNamespace(fit_loop=loop, global_rank=process, world_size=processes)


class TestBatches:
    def test_longest_pads_no_more_than_each_batch_needs(self, few):
        for batch in make_batches(few).train_dataloader():
            assert bool(batch["attention_mask"].any(dim=0).all())

    def test_max_length_pads_every_batch_alike(self, few):
        batches = make_batches(few, padding="max_length", group_by_length=False)
        assert {batch["input_ids"].shape for batch in batches.train_dataloader()} == {(8, 64)}
        assert {batch["input_ids"].shape[1] for batch in batches.val_dataloader()} == {64}

    def test_training_sees_every_row_once_an_epoch(self, few):
        batches = make_batches(few, batch_size=7)
        seen = list(batches.train_dataloader())
        assert sorted(len(batch["labels"]) for batch in seen) == [6, 7, 7, 7, 7, 7, 7]
        tokens = sum(int(batch["attention_mask"].sum()) for batch in seen)
        assert tokens == int(batches.train.lengths.sum())
        assert sum(int(batch["labels"].sum()) for batch in seen) == int(batches.train.labels.sum())

    def test_validation_has_its_own_batch_size_and_every_row(self, few):
        batches = make_batches(few, eval_batch_size=16)
        assert [len(batch["labels"]) for batch in batches.val_dataloader()] == [16, 4]

    @pytest.mark.parametrize("processes", [2, 3, 5])
    def test_processes_share_each_batch(self, few, processes):
        """Batches of 7 and one of 6: with two processes one row fills up in each of the first, with five 3 and 4."""
        whole = list(make_batches(few, batch_size=7).train_dataloader())
        shares = []
        for process in range(processes):
            batches = make_batches(few, batch_size=7)
            batches.trainer = trainer_after(0, process, processes)
            shares.append(list(batches.train_dataloader()))
        for batch, *parts in zip(whole, *shares, strict=True):
            most = -(-len(batch["rows"]) // processes)
            assert [len(part["labels"]) for part in parts] == [len(part["input_ids"]) for part in parts]
            assert {len(part["labels"]) for part in parts} == {most}
            assert all(part["rows"].tolist() == batch["rows"].tolist() for part in parts)
            labels = torch.stack([part["labels"] for part in parts], dim=1).flatten()
            assert labels[: len(batch["rows"])].tolist() == batch["labels"].tolist()
            assert (labels[len(batch["rows"]) :] == -100).all()
            for row in range(len(batch["rows"])):
                tokens = parts[row % processes]["input_ids"][row // processes]
                assert tokens[tokens != 0].tolist() == batch["input_ids"][row][batch["input_ids"][row] != 0].tolist()

    def test_after_a_resume_the_epoch_follows_from_the_batches_done(self, few):
        batches = make_batches(few)
        batches.trainer = trainer_after(12)
        batches.train_dataloader()
        assert batches.epoch_batches.epoch == 2

    def test_majority(self, few):
        batches = make_batches(few)
        batches.validation.labels = np.array([0, 1, 1, 1])
        assert batches.majority() == ("yes", 0.75)

    @pytest.mark.parametrize(
        ("loader", "message"),
        [
            ({"padding": "left"}, r"^loader\.padding = left: choose longest or max_length$"),
            ({"batch_size": 0}, r"^loader\.batch_size = 0: give at least 1$"),
            ({"eval_batch_size": -1}, r"^loader\.eval_batch_size = -1: give at least 1$"),
        ],
    )
    def test_settings_out_of_range(self, few, loader, message):
        with pytest.raises(UserError, match=message):
            make_batches(few, **loader)


def test_to_tensors():
    examples = [
        {"label": np.int64(1), "input_ids": np.array([5, 6])},
        {"label": np.int64(0), "input_ids": np.array([7])},
    ]
    batch = to_tensors(examples, pad_token_id=9)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "labels": [1, 0],
        "input_ids": [[5, 6], [7, 9]],
        "attention_mask": [[1, 1], [1, 0]],
    }
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
