from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuneledger.paths import write_csv
from tuneledger.show.sweep import table, winner
from tuneledger.sweep.jobs import EPOCHS, read_sweep, right_or_wrong
from tuneledger.sweep.space import Interval, Space
from tuneledger.sweep.trial import CHECKPOINT, RUN_ID, drop_checkpoint, record

SPACE = Space(["trainer.max_epochs=4"], {"seed": ["1", "2"]}, {"optim.lr": Interval(1e-5, 1e-3, log=True, whole=False)})
CARD = {"as_of": "2026-06-17", "source": "a list", "usd_per_hour": 3.6, "gpu_usd_per_hour": {}}


def settings(metric: str = "val_loss", mode: str = "min", **cost: Any) -> dict[str, Any]:
    return {"cost": {**CARD, **cost}, "trainer": {"max_epochs": 4, "select": {"metric": metric, "mode": mode}}}


def make_trial(sweep: Path, number: int, *overrides: str, losses: tuple[float, ...] = (), results: bool = True) -> Path:
    """A job's folder after an epoch of 10 steps for each loss, without a record of how it ended."""
    job = sweep / str(number)
    (job / ".hydra").mkdir(parents=True)
    (job / ".hydra" / "overrides.yaml").write_text(
        "".join(f"- {text}\n" for text in ("trainer.max_epochs=4", *overrides, "+until_epoch=1"))
    )
    (job / CHECKPOINT).mkdir()
    (job / CHECKPOINT / RUN_ID).write_text(f"run{number}\n")
    rows = [
        dict(zip(EPOCHS, (epoch, 10 * epoch, 0.9, loss, 0.5, 0.4, 0.6, 0.3), strict=True))
        for epoch, loss in enumerate(losses, start=1)
    ]
    if rows:
        write_csv(job / "results/train/epochs.csv", rows)
    if rows and results:
        best = min(rows, key=lambda row: row["val_loss"])
        scores = {name: value for name, value in best.items() if name not in ("epoch", "step")}
        metrics = {**scores, "best_epoch": best["epoch"], "majority_baseline": 0.5, "epochs": len(rows)}
        (job / "results/train/metrics.json").write_text(json.dumps(metrics))
        (job / "results/train/cost.json").write_text(json.dumps({"hardware": {"gpu": "A", "gpus": 1}}))
        labels = np.array([0, 1, 1])
        logits = np.zeros((len(rows), 3, 2), dtype=np.float32)
        logits[int(best["epoch"]) - 1] = [[1, 0], [0, 1], [1, 0]]  # the kept epoch gets the last row wrong
        np.savez(job / "results/train/validation.npz", logits=logits, labels=labels)
    return job


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """One trial of each outcome."""
    folder = tmp_path / "multirun" / "2026-11-24" / "09-30-00"
    done = make_trial(folder, 0, "optim.lr=1e-4", "seed=1", losses=(0.7, 0.5, 0.4, 0.45))
    record(done, "finished", epochs=4, steps=40, seconds=100.0, val_loss=0.4)
    drop_checkpoint(done)
    pruned = make_trial(folder, 1, "optim.lr=3.3e-05", "seed=2", losses=(0.8,))
    record(pruned, "pruned", "too slow", epochs=1, steps=10, seconds=20.0, val_loss=0.8)
    diverged = make_trial(folder, 2, "optim.lr=0.001", "seed=1", losses=(0.9,), results=False)
    record(diverged, "diverged", "nan", epochs=1, steps=17, seconds=30.0, val_loss=None)
    failed = make_trial(folder, 3, "optim.lr=0", "seed=1")
    record(failed, "failed", "optim.lr = 0", epochs=0, steps=0, seconds=1.0, val_loss=None)
    paused = make_trial(folder, 10, "optim.lr=2e-4", "seed=2", losses=(0.6, 0.5))
    record(paused, "paused", epochs=2, steps=20, seconds=40.0, val_loss=0.5)
    make_trial(folder, 11, "optim.lr=5e-4", "seed=1")
    (folder / "multirun.yaml").write_text("hydra: {}\n")
    (folder / "sweep.json").write_text(json.dumps({"command": "train --multirun seed=1,2", "finished": False}))
    return folder


def test_trials_come_in_the_order_of_their_numbers(sweep):
    trials = read_sweep(sweep, settings(), SPACE, 12).trials
    assert [trial.number for trial in trials] == [0, 1, 2, 3, 10, 11]
    outcomes = ["finished", "pruned", "diverged", "failed", "unfinished", "unfinished"]
    assert [trial.outcome for trial in trials] == outcomes
    assert [trial.reason for trial in trials] == ["", "too slow", "nan", "optim.lr = 0", "not finished", "not finished"]
    assert [trial.steps for trial in trials] == [40, 10, 17, 0, 20, 0]
    assert [trial.seconds for trial in trials] == [100, 20, 30, 1, 40, 0]
    assert [len(trial.epochs) for trial in trials] == [4, 1, 1, 0, 2, 0]


def test_only_what_was_swept_is_told_of_a_trial_as_written(sweep):
    trials = read_sweep(sweep, settings(), SPACE, 12).trials
    assert trials[0].overrides == {"seed": "1", "optim.lr": "1e-4"}
    assert trials[1].overrides == {"seed": "2", "optim.lr": "3.3e-05"}


@pytest.mark.parametrize("prefix", ["+", "++"])
def test_a_key_that_was_added_is_known_by_its_name(tmp_path, prefix):
    folder = tmp_path / "2026" / "a"
    job = make_trial(folder, 0, f"{prefix}optim.lr=1e-4", losses=(0.5,))
    record(job, "finished", epochs=1, steps=10, seconds=1.0, val_loss=0.5)
    (folder / "sweep.json").write_text('{"command": ""}')
    (trial,) = read_sweep(folder, settings(), Space([], {f"{prefix}optim.lr": ["1e-4"]}, {}), 1).trials
    assert trial.overrides == {"optim.lr": "1e-4"}


def test_scores_and_rows_are_the_kept_epochs_of_finished_trials_only(sweep):
    first, *others = read_sweep(sweep, settings(), SPACE, 12).trials
    expected = {"val_loss": 0.4, "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "f1": 0.3, "best_epoch": 3}
    assert first.scores == expected
    assert first.correct.tolist() == [True, True, False]
    assert all(trial.scores == {} and trial.correct is None for trial in others)


def test_rows_are_those_of_the_epoch_asked_for(tmp_path):
    logits = np.array([[[1, 0], [1, 0]], [[0, 1], [1, 0]]], dtype=np.float32)
    np.savez(tmp_path / "validation.npz", logits=logits, labels=np.array([0, 1]))
    assert right_or_wrong(tmp_path / "validation.npz", 1).tolist() == [True, False]
    assert right_or_wrong(tmp_path / "validation.npz", 2).tolist() == [False, False]


def test_every_trial_keeps_its_run(sweep):
    trials = read_sweep(sweep, settings(), SPACE, 12).trials
    assert [trial.run_id for trial in trials] == ["run0", "run1", "run2", "run3", "run10", "run11"]
    (sweep / "3" / CHECKPOINT / RUN_ID).unlink()
    assert read_sweep(sweep, settings(), SPACE, 12).trials[3].run_id is None


def test_the_sweep_as_a_whole(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr("tuneledger.sweep.jobs.code_root", lambda: tmp_path)
    results = read_sweep(sweep, settings(), SPACE, 12)
    assert results.name == "multirun/2026-11-24/09-30-00"
    assert results.command == "train --multirun seed=1,2"
    assert results.promote == "python -m tuneledger.sweep.promote multirun/2026-11-24/09-30-00"
    assert results.majority_baseline == 0.5
    assert results.planned_steps == 12 * 4 * 10  # epochs have 10 steps, also the diverged trial's
    assert results.price_text == "$3.6 an hour, your own price (cost.usd_per_hour), undated"
    assert winner(results).number == 0
    assert "| 1 | optim.lr=1e-4 |" in table(results)


def test_a_sweep_elsewhere_is_promoted_by_its_whole_path(tmp_path):
    folder = tmp_path / "my sweeps"
    folder.mkdir()
    (folder / "sweep.json").write_text('{"command": ""}')
    assert read_sweep(folder, settings(), SPACE, 12).promote.endswith(f" '{folder}'")


def test_a_job_that_has_only_just_begun_is_none_yet(sweep):
    (sweep / "12/.hydra").mkdir(parents=True)
    assert len(read_sweep(sweep, settings(), SPACE, 12).trials) == 6


def test_a_trial_without_a_record_of_its_hardware_is_priced_as_the_others(sweep):
    results = read_sweep(sweep, settings(usd_per_hour=None, gpu_usd_per_hour={"A": 3.6}), SPACE, 12)
    failed = [trial for trial in results.trials if trial.outcome in ("failed", "diverged")]
    assert failed and all(trial.usd == pytest.approx(trial.seconds / 1000) for trial in failed)


def test_money(sweep):
    assert [trial.usd for trial in read_sweep(sweep, settings(), SPACE, 12).trials][:3] == [0.1, 0.02, 0.03]
    listed = settings(usd_per_hour=None, gpu_usd_per_hour={"A": 36.0})
    trials = read_sweep(sweep, listed, SPACE, 12).trials
    assert [trial.usd for trial in trials][:2] == [1.0, 0.2]
    unlisted = settings(usd_per_hour=None)
    assert {trial.usd for trial in read_sweep(sweep, unlisted, SPACE, 12).trials} == {None}


@pytest.mark.parametrize(
    ("metric", "mode", "expected"),
    [
        ("val_loss", "min", ("val_loss", "min")),
        ("accuracy", "max", ("accuracy", "max")),
        ("f1", "max", ("f1", "max")),
        ("epoch", "max", ("val_loss", "min")),  # the last epoch is kept, which ranks nothing
    ],
)
def test_trials_are_ranked_by_what_epochs_are_selected_by(sweep, metric, mode, expected):
    results = read_sweep(sweep, settings(metric, mode), SPACE, 12)
    assert (results.metric, results.mode) == expected


def test_a_sweep_that_never_got_to_a_trial(tmp_path):
    folder = tmp_path / "2026" / "a"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text('{"command": ""}')
    results = read_sweep(folder, settings(), SPACE, 12)
    assert results.trials == []
    assert results.planned_steps == 0
    assert math.isnan(results.majority_baseline)
    assert winner(results) is None
    assert "No trial finished" in table(results)
