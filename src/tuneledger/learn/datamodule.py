"""Loaders whose batches depend on (seed, epoch) alone and which continue in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from tuneledger.errors import UserError
from tuneledger.learn.loss import IGNORED
from tuneledger.text.batches import Example, TokenizedSplit, collate, evaluation_batches, share, training_batches

PADDINGS = ("longest", "max_length")


class EpochBatches:
    """Batch sampler of one training: `epoch` chooses the permutation, `start` skips batches already seen."""

    def __init__(self, lengths: np.ndarray, batch_size: int, group_by_length: bool, seed: int):
        self.epoch = 0
        self.start = 0
        self._batches = partial(training_batches, lengths, batch_size, group_by_length=group_by_length, seed=seed)
        self._count = -(-len(lengths) // batch_size)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._batches(epoch=self.epoch)[self.start :])


class Shares(Dataset):
    """Item `rows` is what one process computes of the batch with these rows.

    Beside the model's inputs it holds labels, IGNORED for an example that only fills up, and rows as an array, those of
    the whole batch.
    """

    def __init__(
        self,
        split: TokenizedSplit,
        collate: Callable[[list[Example]], dict[str, torch.Tensor]],
        process: int = 0,
        processes: int = 1,
    ):
        self.split, self.collate = split, collate
        self.process, self.processes = process, processes

    def __getitem__(self, rows: np.ndarray) -> dict[str, Any]:
        mine, own = share(rows, self.process, self.processes)
        batch = self.collate([self.split[int(row)] for row in mine])
        batch["labels"][own:] = IGNORED
        return batch | {"rows": rows}  # an array, which stays off an accelerator


class ResumableLoader(DataLoader):
    """A DataLoader of ready batches that Lightning can save and restore in the middle of an epoch.

    Lightning stores `state_dict()` in each checkpoint and hands it back before the first batch after a resume,
    save for checkpoints taken at the end of an epoch: for those `batches.epoch` has to be right already.
    """

    def __init__(self, dataset: Shares, batches: EpochBatches):
        super().__init__(dataset, sampler=batches, batch_size=None, collate_fn=_as_it_is)
        self.batches = batches
        self.served = 0

    def state_dict(self) -> dict[str, int]:
        done = self.served >= len(self.batches)
        return {"epoch": self.batches.epoch + done, "batches": 0 if done else self.served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches.epoch, self.batches.start = state["epoch"], state["batches"]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if self.served >= len(self.batches):
            self.batches.epoch += 1
        self.served = self.batches.start
        inner = super().__iter__()
        for batch in inner:
            self.batches.start = 0  # only the first pass after a resume starts in the middle
            self.served += 1
            yield batch


class Batches(pl.LightningDataModule):
    """Training and validation batches: input_ids, attention_mask, maybe token_type_ids, labels and rows, see `Shares`.

    Args:
        train, validation: tokenized splits.
        labels: their names.
        pad_token_id: the tokenizer's.
        max_length: tokens a row where padding is "max_length".
        seed: fixes the order of training batches.
        batch_size, eval_batch_size: examples, over all processes.
        padding: "longest" (of the batch) or "max_length".
        group_by_length: batches of similar length.
    """

    def __init__(
        self,
        train: TokenizedSplit,
        validation: TokenizedSplit,
        labels: list[str],
        pad_token_id: int,
        max_length: int,
        seed: int,
        *,
        batch_size: int,
        eval_batch_size: int,
        padding: str,
        group_by_length: bool,
    ):
        super().__init__()
        if padding not in PADDINGS:
            raise UserError(f"loader.padding = {padding}: choose {' or '.join(PADDINGS)}")
        for key, size in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if size < 1:
                raise UserError(f"loader.{key} = {size}: give at least 1")
        self.train, self.validation, self.labels = train, validation, labels
        self.eval_batch_size, self.pad_token_id = eval_batch_size, pad_token_id
        self.epoch_batches = EpochBatches(train.lengths, batch_size, group_by_length, seed)
        width = max_length if padding == "max_length" else None
        self.collate = partial(to_tensors, pad_token_id=pad_token_id, width=width)

    def train_dataloader(self) -> ResumableLoader:
        # After a resume trainer.current_epoch is not right yet at this point; the count of batches is.
        processed = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        self.epoch_batches.epoch = processed // len(self.epoch_batches)
        return ResumableLoader(self._shares(self.train), self.epoch_batches)

    def val_dataloader(self) -> DataLoader:
        shares = self._shares(self.validation)
        return DataLoader(shares, sampler=self.validation_batches, batch_size=None, collate_fn=_as_it_is)

    def _shares(self, split: TokenizedSplit) -> Shares:
        return Shares(split, self.collate, self.trainer.global_rank, self.trainer.world_size)

    @property
    def validation_batches(self) -> list[np.ndarray]:
        """Row numbers of each validation batch, in the order in which they come."""
        return evaluation_batches(self.validation.lengths, self.eval_batch_size)

    def majority(self) -> tuple[str, float]:
        """The validation split's most frequent label and its share."""
        counts = np.bincount(self.validation.labels, minlength=len(self.labels))
        return self.labels[int(counts.argmax())], float(counts.max() / counts.sum())


def _as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    return batch


def to_tensors(examples: list[Example], *, pad_token_id: int, width: int | None = None) -> dict[str, torch.Tensor]:
    """`text.batches.collate`, as tensors."""
    batch = collate(examples, pad_token_id=pad_token_id, width=width)
    return {name: torch.from_numpy(array) for name, array in batch.items()}
