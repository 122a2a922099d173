from __future__ import annotations

import gc
import json
import math
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuneledger.errors import Diverged, Interrupted, UserError
from tuneledger.sweep.trial import CHECKPOINT, OUTCOME, RUN_ID, drop_checkpoint, outcome, record, run_trial

ROWS = [{"epoch": 1, "val_loss": 0.5}, {"epoch": 2, "val_loss": 0.25}, {"epoch": 3, "val_loss": 0.375}]


def a_fit(epochs: int, *, ended: bool, late_signal: int | None = None) -> Any:
    """As `learn.fit.fit` gives it, as far as a trial looks."""
    totals = {"train_seconds": 2.0 * epochs, "validation_seconds": 0.5 * epochs}
    steps = [{}] * 10 * epochs
    return SimpleNamespace(epochs=ROWS[:epochs], steps=steps, totals=totals, ended=ended, late_signal=late_signal)


def never() -> Any:
    raise AssertionError("trained again")


def failing(error: BaseException):
    def train() -> Any:
        raise error

    return train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's, with a checkpoint as a training leaves it."""
    trial = tmp_path / "7"
    (trial / CHECKPOINT / "best").mkdir(parents=True)
    (trial / CHECKPOINT / "last.ckpt").write_bytes(b"x")
    (trial / CHECKPOINT / RUN_ID).write_text("abc")
    return trial


def checkpoint(folder: Path) -> set[str]:
    return {path.name for path in (folder / CHECKPOINT).iterdir()}


def test_nothing_is_known_of_a_trial_that_never_ran(tmp_path):
    assert outcome(tmp_path) == {}


def test_a_finished_training(folder):
    assert run_trial(folder, lambda: a_fit(3, ended=True), None) == 0.25  # the lowest, not the last
    assert outcome(folder) == {
        "outcome": "finished", "reason": "", "epochs": 3, "steps": 30, "seconds": 7.5, "val_loss": 0.25,
    }  # fmt: skip
    assert checkpoint(folder) == {RUN_ID}


def test_a_paused_one_keeps_its_checkpoint_and_goes_on(folder):
    assert run_trial(folder, lambda: a_fit(1, ended=False), 1) == 0.5
    assert outcome(folder)["outcome"] == "paused"
    assert "last.ckpt" in checkpoint(folder)
    assert run_trial(folder, never, 1) == 0.5  # it is there already
    assert run_trial(folder, lambda: a_fit(2, ended=False), 2) == 0.25
    assert (outcome(folder)["outcome"], outcome(folder)["epochs"]) == ("paused", 2)
    assert run_trial(folder, lambda: a_fit(3, ended=True), None) == 0.25
    assert outcome(folder)["outcome"] == "finished"


@pytest.mark.parametrize("kind", ["finished", "pruned"])
@pytest.mark.parametrize("until", [None, 1, 9])
def test_one_that_ended_is_not_run_again(folder, kind, until, capsys):
    record(folder, kind, epochs=1, steps=5, seconds=1.0, val_loss=0.5)
    before = (folder / OUTCOME).read_bytes()
    assert run_trial(folder, never, until) == 0.5
    assert (folder / OUTCOME).read_bytes() == before
    assert capsys.readouterr().out == f"7: {kind} already\n"


def test_one_that_diverged(folder):
    error = Diverged("the loss became nan at step 25:\nlower optim.lr", ROWS[:2], 25)
    assert run_trial(folder, failing(error), None) == math.inf
    known = outcome(folder)
    assert known.pop("seconds") >= 0
    assert known == {
        "outcome": "diverged", "reason": "the loss became nan at step 25: lower optim.lr",
        "epochs": 2, "steps": 25, "val_loss": None,
    }  # fmt: skip
    assert (folder / "results/train/epochs.csv").read_text() == "epoch,val_loss\n1,0.5\n2,0.25\n"
    assert checkpoint(folder) == {RUN_ID}  # by which its run is found
    assert run_trial(folder, never, None) == math.inf


def test_one_that_diverged_in_its_first_epoch_has_no_epochs(folder):
    run_trial(folder, failing(Diverged("nan", [], 3)), 1)
    assert not (folder / "results").exists()
    assert outcome(folder)["steps"] == 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [(UserError("optim.lr = 0"), "optim.lr = 0"), (RuntimeError("CUDA\nout of memory"), "CUDA out of memory"),
     (ValueError(), "ValueError")],
)  # fmt: skip
def test_one_that_failed_is_recorded_and_told_now_and_later(folder, error, reason):
    with pytest.raises(type(error)) as raised:
        run_trial(folder, failing(error), None)
    assert raised.value is error
    known = outcome(folder)
    assert known.pop("seconds") >= 0
    assert known == {"outcome": "failed", "reason": reason, "epochs": 0, "steps": 0, "val_loss": None}
    before = (folder / OUTCOME).read_bytes()
    with pytest.raises(UserError) as again:
        run_trial(folder, never, None)
    assert str(again.value) == reason
    assert (folder / OUTCOME).read_bytes() == before


def test_what_was_done_before_a_failure_or_a_divergence_is_counted(folder):
    run_trial(folder, lambda: a_fit(2, ended=False), 2)
    paused = (folder / OUTCOME).read_bytes()
    with pytest.raises(RuntimeError):
        run_trial(folder, failing(RuntimeError("disk")), None)
    assert (outcome(folder)["epochs"], outcome(folder)["steps"]) == (2, 20)
    assert 5.0 <= outcome(folder)["seconds"] < 6.0
    (folder / OUTCOME).write_bytes(paused)
    run_trial(folder, failing(Diverged("nan", ROWS[:2], 25)), None)
    assert 5.0 <= outcome(folder)["seconds"] < 6.0


@pytest.mark.parametrize(
    "stop", [Interrupted(15), KeyboardInterrupt(), SystemExit(1), OSError(28, "No space left on device"), MemoryError()]
)
def test_an_interrupted_one_is_not_recorded_and_can_go_on(folder, stop):
    with pytest.raises(type(stop)):
        run_trial(folder, failing(stop), None)
    assert outcome(folder) == {}
    assert "last.ckpt" in checkpoint(folder)
    assert run_trial(folder, lambda: a_fit(3, ended=True), None) == 0.25


def test_the_job_of_an_earlier_launch_is_waited_for(folder):
    """A killed sweep's jobs on a cluster live on; the same command again must not train beside them, nor fail."""
    started, go_on = threading.Event(), threading.Event()
    values: list[float] = []

    def slow() -> Any:
        started.set()
        go_on.wait(10)
        return a_fit(3, ended=True)

    first = threading.Thread(target=lambda: values.append(run_trial(folder, slow, None)))
    first.start()
    assert started.wait(10)
    second = threading.Thread(target=lambda: values.append(run_trial(folder, never, None)))
    second.start()
    time.sleep(0.2)
    assert values == []
    go_on.set()
    first.join(10)
    second.join(10)
    assert values == [0.25, 0.25]


def test_a_record_is_json_of_one_line_reasons(tmp_path):
    record(tmp_path, "pruned", " validation loss 0.5\n after epoch 1 ", val_loss=0.5)
    assert json.loads((tmp_path / OUTCOME).read_text()) == {
        "outcome": "pruned", "reason": "validation loss 0.5 after epoch 1", "val_loss": 0.5,
    }  # fmt: skip


def test_dropping_a_checkpoint_that_is_not_there_is_fine(tmp_path):
    drop_checkpoint(tmp_path)


def test_a_signal_that_came_too_late_for_the_trial_ends_the_sweep_after_it(folder):
    with pytest.raises(Interrupted):
        run_trial(folder, lambda: a_fit(3, ended=True, late_signal=2), None)
    assert outcome(folder)["outcome"] == "finished"
    assert run_trial(folder, never, None) == 0.25
    assert checkpoint(folder) == {RUN_ID}


def test_a_failed_one_lets_go_of_what_it_held(folder):
    class Tensor:
        pass

    held = []

    def train() -> Any:
        activations = Tensor()
        held.append(weakref.ref(activations))
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError) as kept:  # as Hydra keeps it
        run_trial(folder, train, None)
    gc.collect()
    assert kept.value.__traceback__ is not None
    assert held[0]() is None
