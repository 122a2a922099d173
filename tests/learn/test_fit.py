from __future__ import annotations

import gc
import math
import signal
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scratch
import torch
from safetensors.torch import load_file

from tuneledger.errors import Interrupted, UserError
from tuneledger.learn import history
from tuneledger.learn.datamodule import to_tensors
from tuneledger.learn.fit import _run, check_c_compiler
from tuneledger.learn.packed import layer
from tuneledger.learn.trainer import resolve_precision
from tuneledger.text.batches import TokenizedSplit, training_batches

NO_DROPOUT = {"model": {"dropout": 0.0}}


class TestPrecision:
    @pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
    def test_a_given_one_stays(self, precision):
        assert resolve_precision(precision, "cpu") == precision

    def test_half_precision_is_for_gpus(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert resolve_precision("16-mixed", "auto") == "16-mixed"
        with pytest.raises(UserError, match=r"^trainer\.precision = 16-mixed needs a GPU: set bf16-mixed"):
            resolve_precision("16-mixed", "cpu")

    @pytest.mark.parametrize(
        ("capabilities", "resolved"),
        [
            ({"avx512_bf16": True, "amx_bf16": False}, "bf16-mixed"),
            ({"avx512_bf16": False, "amx_bf16": True}, "bf16-mixed"),
            ({"avx512_bf16": False, "amx_bf16": False, "avx512": True}, "32-true"),
            ({}, "32-true"),
        ],
    )
    def test_auto_on_a_processor_asks_what_it_multiplies_natively(self, monkeypatch, capabilities, resolved):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert resolve_precision("auto", "cpu") == resolve_precision("auto", "auto") == resolved

    @pytest.mark.parametrize(("native", "resolved"), [(True, "bf16-mixed"), (False, "32-true")])
    def test_auto_on_a_gpu_does_not_count_emulation(self, monkeypatch, native, resolved):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not native})
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native
        )
        assert resolve_precision("auto", "gpu") == resolve_precision("auto", "auto") == resolved

    def test_auto_on_a_processor_beside_a_gpu_is_the_processors(self, monkeypatch):
        monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
        assert resolve_precision("auto", "cpu") == "32-true"

    def test_an_unknown_one(self):
        with pytest.raises(UserError, match=r"^trainer\.precision = fp16: choose auto, 32-true, bf16-mixed, 16-mixed$"):
            resolve_precision("fp16", "cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_epochs": 0}, r"^trainer\.max_epochs = 0: give at least 1$"),
        ({"accumulate_grad_batches": 0}, r"^trainer\.accumulate_grad_batches = 0: give at least 1$"),
        ({"precision": "half"}, r"^trainer\.precision = half: choose"),
        ({"log_every_n_steps": 0}, r"^trainer\.log_every_n_steps = 0: give at least 1$"),
        ({"checkpoint_every_n_steps": 0}, r"^trainer\.checkpoint_every_n_steps = 0: give at least 1$"),
        (
            {"select": {"metric": "loss", "mode": "min"}},
            r"^trainer\.select\.metric = loss: choose val_loss, accuracy, f1, epoch$",
        ),
        ({"select": {"metric": "f1", "mode": "most"}}, r"^trainer\.select\.mode = most: choose min or max$"),
        (
            {"patience": 2, "select": {"metric": "epoch", "mode": "max"}},
            r"^trainer\.patience needs a trainer\.select\.metric",
        ),
        pytest.param({"patience": -1}, r"^trainer\.patience = -1"),
        pytest.param({"gradient_clip_val": -1.0}, r"^trainer\.gradient_clip_val = -1\.0"),
        pytest.param({"accelerator": "abacus"}, r"^trainer\.accelerator = abacus"),
        pytest.param({"accelerator": "gpu"}, r"^trainer\.accelerator = gpu"),
        pytest.param({"select": {"metric": "f1"}}, r"trainer\.select\.mode"),
        pytest.param({"select": {"metric": "f1", "mode": "max", "modus": "x"}}, r"trainer\.select\.modus"),
    ],
)
def test_settings_out_of_range_before_anything_is_trained(train, tmp_path, monkeypatch, settings, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        train(**settings)
    assert not list(tmp_path.rglob("*.*"))


def gradients_taken(optimizer: torch.optim.Optimizer, before: dict) -> float:
    """The norm of the gradients that the last step took, from the running mean they went into."""
    total = 0.0
    for parameter, state in optimizer.state.items():
        old = before.get(parameter, torch.zeros_like(parameter))
        total += float(((state["exp_avg"] - 0.9 * old) / 0.1).double().square().sum())
        before[parameter] = state["exp_avg"].clone()
    return math.sqrt(total)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_both_precisions_of_a_processor_train_and_clip_to_a_norm(train, tmp_path, precision, implementation):
    norms: dict[float | None, list[float]] = {}

    def watch(limit: float | None):
        def prepare(module) -> None:
            before: dict = {}

            def keep(*_) -> None:
                norms.setdefault(limit, []).append(gradients_taken(module.optimizers(use_pl_optimizer=False), before))

            module.on_train_batch_end = keep

        return prepare

    for limit in (None, 0.01):
        result = train(
            tmp_path / str(limit),
            prepare=watch(limit),
            gradient_clip_val=limit,
            max_epochs=1,
            changes=NO_DROPOUT,
            precision=precision,
        )
        assert result.precision == precision
    assert min(norms[None]) > 0.015
    assert norms[0.01] == pytest.approx([0.01] * 6, rel=1e-3)


def test_libraries_objects_and_fresh_memory_are_left_alone_while_it_trains_and_no_longer(train):
    frozen = []

    def watch(module) -> None:
        module.on_train_batch_end = lambda *_: frozen.append(
            (gc.get_freeze_count() > 0, torch.empty(1000).isnan().all())
        )

    gc.unfreeze()
    train(prepare=watch, max_epochs=1)
    # Memory that torch fills for determinism's sake is all NaN.
    assert [(bool(kept), bool(filled)) for kept, filled in frozen] == [(True, False)] * 6
    assert gc.get_freeze_count() == 0


class TestRecord:
    @pytest.fixture(scope="class")
    def told(self) -> dict[str, list]:
        return {"steps": [], "epochs": []}

    def test_steps_epochs_and_totals(self, train, few, told):
        settings = {"max_epochs": 2, "log_every_n_steps": 4, "checkpoint_every_n_steps": 100}
        result = train(on_step=told["steps"].append, on_epoch=told["epochs"].append, **settings)
        assert [row["step"] for row in result.steps] == list(range(1, 13))
        assert [row["epoch"] for row in result.steps] == [1] * 6 + [2] * 6
        assert list(result.steps[0]) == ["step", "epoch", "loss", "lr"]
        assert told["steps"] == [row for row in result.steps if row["step"] % 4 == 0]
        assert told["epochs"] == result.epochs
        assert [(row["epoch"], row["step"]) for row in result.epochs] == [(1, 6), (2, 12)]
        assert list(result.epochs[0]) == [
            "epoch", "step", "train_loss", "val_loss", "accuracy", "accuracy_low", "accuracy_high", "f1",
        ]  # fmt: skip
        for epoch in result.epochs:  # all batches have 8 rows
            losses = [row["loss"] for row in result.steps if row["epoch"] == epoch["epoch"]]
            assert epoch["train_loss"] == pytest.approx(np.mean(losses))
            assert epoch["accuracy_low"] < epoch["accuracy"] < epoch["accuracy_high"]
            assert epoch["accuracy"] * 20 == pytest.approx(round(epoch["accuracy"] * 20), abs=1e-5)
        assert result.best_epoch == 1 + int(np.argmin([row["val_loss"] for row in result.epochs]))
        assert result.precision == "32-true"

        lengths = TokenizedSplit(few / "train.arrow").lengths
        assert result.totals["examples"] == 96
        assert result.totals["padded_tokens"] == 2 * lengths.sum()  # padding is not computed
        assert result.totals["squared_lengths"] == 2 * (lengths.astype(int) ** 2).sum()
        assert result.totals["resumed"] == 0
        assert result.totals["train_seconds"] > 0
        assert result.totals["validation_seconds"] > 0

    def test_padding_counts_where_it_is_computed(self, train, few, monkeypatch):
        monkeypatch.setattr(history, "packable", lambda model: False)
        result = train(max_epochs=1)
        lengths = TokenizedSplit(few / "train.arrow").lengths
        batches = training_batches(lengths, 8, group_by_length=True, seed=1, epoch=0)
        widths = [int(lengths[rows].max()) for rows in batches]
        assert result.totals["padded_tokens"] == 8 * sum(widths) > lengths.sum()
        assert result.totals["squared_lengths"] == 8 * sum(width**2 for width in widths)

    def test_the_loss_of_an_epoch_is_that_of_all_its_rows(self, train, few):
        """48 rows in batches of 10 and 8, with weights that stand still."""
        expected = []

        def score(module) -> None:
            split = TokenizedSplit(few / "train.arrow")
            batch = to_tensors([split[row] for row in range(48)], pad_token_id=0)
            expected.append(module.training_step(batch, 0).item())

        changes = {**NO_DROPOUT, "optim": {"lr": 1e-12}, "loader": {"batch_size": 10, "group_by_length": False}}
        result = train(prepare=score, max_epochs=1, changes=changes)
        assert result.epochs[0]["train_loss"] == pytest.approx(expected[0], abs=1e-6)
        weighed = sum(row["loss"] * rows for row, rows in zip(result.steps, [10, 10, 10, 10, 8], strict=True)) / 48
        assert weighed == pytest.approx(expected[0], abs=1e-6)


@pytest.fixture(scope="module")
def accumulated(few, tmp_path_factory) -> dict[int, Any]:
    """Trainings by batch size in which the same 8 rows make a step; without dropout, whose draws differ by batch."""
    from tuneledger.learn.fit import fit

    runs = {}
    for size in (8, 4, 2):
        loader = {"batch_size": size, "group_by_length": False}
        module, batches = scratch.make_training(few, **NO_DROPOUT, loader=loader)
        settings = {**scratch.TRAINER, "accumulate_grad_batches": 8 // size}
        folder = tmp_path_factory.mktemp(str(size))
        runs[size] = fit(module, batches, folder, 1, scratch.nothing, scratch.nothing, **settings)
    return runs


@pytest.mark.parametrize("size", [4, 2])
class TestAccumulation:
    """Small batches, accumulated, are one large batch."""

    def test_takes_the_same_steps(self, accumulated, size):
        one, other = accumulated[8], accumulated[size]
        assert [row["step"] for row in other.steps] == list(range(1, 13))
        assert [row["lr"] for row in other.steps] == pytest.approx([row["lr"] for row in one.steps])
        for found, expected in zip(other.epochs, one.epochs, strict=True):
            assert found["val_loss"] == pytest.approx(expected["val_loss"], abs=1e-5)
            assert found["accuracy"] == expected["accuracy"]

    def test_records_the_same_losses(self, accumulated, size):
        one, other = accumulated[8], accumulated[size]
        assert [row["loss"] for row in other.steps] == pytest.approx([row["loss"] for row in one.steps], abs=1e-5)
        for found, expected in zip(other.epochs, one.epochs, strict=True):
            assert found["train_loss"] == pytest.approx(expected["train_loss"], abs=1e-5)


STILL = {"optim": {"lr": 1e-9}}
SELECT = {"metric": "accuracy", "mode": "max"}  # which weights this still do not change


class TestPatience:
    def test_stops_after_so_many_epochs_without_a_better_one(self, train):
        result = train(max_epochs=9, patience=2, select=SELECT, changes=STILL)
        assert [row["epoch"] for row in result.epochs] == [1, 2, 3]
        assert result.best_epoch == 1

    def test_null_trains_to_the_end(self, train):
        result = train(max_epochs=4, patience=None, select=SELECT, changes=STILL)
        assert len(result.epochs) == 4

    def test_a_stopped_training_that_was_killed_before_its_end_stays_stopped(self, train):
        settings = {"max_epochs": 9, "patience": 2, "select": SELECT, "changes": STILL}
        whole = train(**settings)
        again = train(**settings)
        assert again.epochs == whole.epochs
        assert again.steps == whole.steps


def test_a_finished_training_that_was_killed_before_its_end_only_repeats_its_record(train, tmp_path):
    whole = train(max_epochs=2)
    weights = (tmp_path / "run" / "best" / "model.safetensors").read_bytes()
    again = train(max_epochs=2, on_step=pytest.fail, on_epoch=pytest.fail)
    assert (again.steps, again.epochs, again.best_epoch) == (whole.steps, whole.epochs, whole.best_epoch)
    assert (tmp_path / "run" / "best" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(("noted", "signum"), [(signal.SIGINT, signal.SIGINT), (None, signal.SIGTERM)])
def test_an_exit_that_lightning_makes_of_a_signal_is_an_interruption(noted, signum):
    def exit_cleanly(*_: Any, **__: Any) -> None:
        sys.exit(0)

    with pytest.raises(Interrupted) as stop:
        _run(SimpleNamespace(fit=exit_cleanly), None, None, None, lambda: noted)
    assert stop.value.signum == signum


def test_the_seed_decides_the_weights(train, tmp_path, few):
    from tuneledger.learn.fit import fit

    def weights(name: str, seed: int) -> bytes:
        torch.manual_seed(len(name))  # what was drawn before does not matter
        module, batches = scratch.make_training(few, seed=seed)
        fit(
            module,
            batches,
            tmp_path / name,
            seed,
            scratch.nothing,
            scratch.nothing,
            **{**scratch.TRAINER, "max_epochs": 1},
        )
        return (tmp_path / name / "best" / "model.safetensors").read_bytes()

    assert weights("a", 1) == weights("bb", 1)
    assert weights("c", 1) != weights("d", 2)


class TestPause:
    def test_paused_and_gone_on_with_ends_like_the_whole(self, train, tmp_path):
        whole = train(max_epochs=3)
        paused = train(tmp_path / "parts", max_epochs=3, until_epoch=1)
        assert (len(paused.epochs), paused.ended) == (1, False)
        again = train(tmp_path / "parts", max_epochs=3, until_epoch=1)  # nothing is left to do
        assert (again.epochs, again.steps, again.ended) == (paused.epochs, paused.steps, False)
        train(tmp_path / "parts", max_epochs=3, until_epoch=2)
        ended = train(tmp_path / "parts", max_epochs=3, until_epoch=3)
        assert (ended.epochs, ended.steps, ended.best_epoch) == (whole.epochs, whole.steps, whole.best_epoch)
        assert ended.ended and whole.ended
        weights = [(tmp_path / folder / "best" / "model.safetensors").read_bytes() for folder in ("run", "parts")]
        assert weights[0] == weights[1]


def test_on_a_cpu_compile_changes_nothing(train, tmp_path):
    def watch(module) -> None:
        module.compile_training = None  # calling it would fail

    with_, without = (train(tmp_path / str(flag), prepare=watch, max_epochs=1, compile=flag) for flag in (True, False))
    assert with_.steps == without.steps


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_frozen_layers_stay_and_the_others_move(few, tmp_path, train, implementation, precision):
    before, _ = scratch.make_training(few)
    train(changes={"model": {"frozen_layers": 1}}, precision=precision, select={"metric": "epoch", "mode": "max"})
    after = load_file(tmp_path / "run" / "best" / "model.safetensors")
    for name, weight in before.model.state_dict().items():
        frozen = "embeddings" in name or "layer.0." in name
        if frozen or "key.bias" not in name:  # which softmax does not see
            assert torch.equal(weight, after[name]) == frozen, name


def test_compiling_for_a_gpu_without_a_c_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CC", "mycc")
    check_c_compiler()
    monkeypatch.delenv("CC")
    with pytest.raises(UserError, match=r"^trainer\.compile needs a C compiler: install gcc or clang, or set trainer"):
        check_c_compiler()


def test_a_training_leaves_no_memory_of_layers_behind(train, compiled):
    train(precision="bf16-mixed", max_epochs=1)
    assert layer._unused == []
