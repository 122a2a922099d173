from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tuneledger.sweep import PARENT, Sweep, format_table, rank, read_jobs

SCORES = {"accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.9, "f1": 0.85, "val_loss": 0.5, "best_epoch": 3}


def make_job(folder: Path, number: int, *overrides: str, error: str | None = None, **scores: float) -> None:
    """A job's folder as a finished training leaves it, or with `error` as a failed one does."""
    job = folder / str(number)
    (job / ".hydra").mkdir(parents=True)
    (job / ".hydra" / "overrides.yaml").write_text("".join(f"- {override}\n" for override in overrides) or "[]\n")
    if error is not None:
        (job / "error.txt").write_text(error)
        return
    results = job / "results" / "train"
    results.mkdir(parents=True)
    (results / "metrics.json").write_text(json.dumps({**SCORES, **scores}))
    (results / "cost.json").write_text(json.dumps({"fit_seconds": 12.4}))
    (results / "run.json").write_text("{}")


@pytest.fixture
def folder(tmp_path) -> Path:
    make_job(tmp_path, 0, "optim.lr=1e-5", val_loss=0.6, accuracy=0.9)
    make_job(tmp_path, 1, "optim.lr=1", error="the loss became nan\nat step 3\n")
    make_job(tmp_path, 2, "optim.lr=1e-4", "seed=2", val_loss=0.4, accuracy=0.7)
    make_job(tmp_path, 10, "optim.lr=3e-5", val_loss=0.5, accuracy=0.8)
    (tmp_path / "multirun.yaml").write_text("hydra: {}\n")
    return tmp_path


def test_jobs_come_in_the_order_of_their_numbers(folder):
    jobs = read_jobs(folder)
    assert [job["job"] for job in jobs] == ["0", "1", "2", "10"]
    assert jobs[0] == {
        "job": "0", "overrides": "optim.lr=1e-5", "error": None, **SCORES,
        "val_loss": 0.6, "accuracy": 0.9, "fit_seconds": 12.4,
    }  # fmt: skip
    assert jobs[1] == {"job": "1", "overrides": "optim.lr=1", "error": "the loss became nan\nat step 3"}
    assert jobs[2]["overrides"] == "optim.lr=1e-4, seed=2"


def test_a_job_without_run_json_has_not_finished(folder):
    (folder / "2" / "results" / "train" / "run.json").unlink()
    assert read_jobs(folder)[2] == {"job": "2", "overrides": "optim.lr=1e-4, seed=2", "error": "not finished"}


def test_a_folder_without_jobs_gives_none(tmp_path):
    assert read_jobs(tmp_path) == []


@pytest.mark.parametrize(
    ("metric", "mode", "order"),
    [
        ("val_loss", "min", ["2", "10", "0", "1"]),
        ("accuracy", "max", ["0", "10", "2", "1"]),
        ("epoch", "max", ["2", "10", "0", "1"]),
    ],
)
def test_the_best_job_is_first_and_failed_ones_last(folder, metric, mode, order):
    assert [job["job"] for job in rank(read_jobs(folder), metric=metric, mode=mode)] == order


def test_equal_jobs_keep_their_order():
    jobs = [{"job": name, "error": None, "f1": 0.5} for name in "abc"]
    assert [job["job"] for job in rank(jobs, metric="f1", mode="max")] == ["a", "b", "c"]


def test_the_table(folder):
    table = format_table(rank(read_jobs(folder), metric="val_loss", mode="min"), "val_loss")
    assert table.splitlines() == [
        "Ranked by val_loss on the validation split:",
        "",
        "| Rank | Job | Overrides | Validation loss | Accuracy [95 % interval] | F1 | Epoch | Seconds |",
        "|---:|---:|---|---:|---:|---:|---:|---:|",
        "| 1 | 2 | optim.lr=1e-4, seed=2 | 0.4000 | 0.700 [0.700, 0.900] | 0.850 | 3 | 12 |",
        "| 2 | 10 | optim.lr=3e-5 | 0.5000 | 0.800 [0.700, 0.900] | 0.850 | 3 | 12 |",
        "| 3 | 0 | optim.lr=1e-5 | 0.6000 | 0.900 [0.700, 0.900] | 0.850 | 3 | 12 |",
        "| – | 1 | optim.lr=1 | failed: the loss became nan | | | | |",
    ]


def test_the_table_says_by_what_it_ranks_where_the_last_epoch_is_kept():
    assert format_table([], "epoch").splitlines()[0] == "Ranked by val_loss on the validation split:"


def test_a_bar_in_an_override_does_not_break_the_table(tmp_path):
    make_job(tmp_path, 0, "optim.schedule=a|b")
    assert "| optim.schedule=a\\|b |" in format_table(read_jobs(tmp_path), "val_loss")


def test_a_failure_without_words_still_makes_a_table(tmp_path):
    make_job(tmp_path, 0, "seed=1", error="\n")
    assert "| – | 0 | seed=1 | failed" in format_table(read_jobs(tmp_path), "val_loss")


def started(folder: Path) -> Sweep:
    sweep = Sweep()
    sweep.folder, sweep.open = folder, True
    sweep.select, sweep.tracking = {"metric": "val_loss", "mode": "min"}, {"enabled": False}
    return sweep


def test_the_end_prints_the_table_once_and_keeps_it(folder, capsys, monkeypatch):
    monkeypatch.delenv(PARENT, raising=False)
    sweep = started(folder)
    sweep.on_multirun_end(SimpleNamespace())
    sweep.close()
    printed = capsys.readouterr().out
    assert printed.count("Ranked by") == 1
    assert (folder / "sweep.md").read_text(encoding="utf-8") == printed


def test_a_sweep_that_ended_before_its_first_job_writes_no_table(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(PARENT, raising=False)
    started(tmp_path).close()
    assert not (tmp_path / "sweep.md").exists()
