"""`--multirun`: a parent run with a child per job, a ranked table, jobs that do not disturb each other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import scratch
from omegaconf import OmegaConf


@pytest.fixture
def fresh(finished: Path, tmp_path: Path) -> Path:
    """A finished project without any MLflow store."""
    copy = tmp_path / "project"
    shutil.copytree(finished, copy, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db", "mlruns", "cache"))
    return copy


def tracked(project: Path) -> tuple[list, list]:
    """(parents, children) among the runs of the project's store."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("tuneledger").experiment_id])
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    return [run for run in found if run not in children], children


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def test_two_at_a_time_on_a_new_store_with_one_job_failing(fresh: Path):
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = scratch.stage(fresh, "train", "--multirun", "optim.lr=1e-3,0,5e-4", *joblib, check=False)
    assert done.returncode == 2
    assert "error: optim.lr = 0: give a positive number" in done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("| ") and "optim.lr" in line]
    assert [line.split("|")[1].strip() for line in table] == ["1", "2", "1"]  # two ranks, and trial 1 with its reason
    assert "| failed (optim.lr = 0: give a positive number" in table[2]

    wait_until(lambda: len([run for run in tracked(fresh)[1] if run.info.status == "FINISHED"]) == 2)
    (parent,), children = tracked(fresh)
    assert parent.info.status == "FAILED"  # because a job failed
    assert sorted(child.data.params["optim.lr"] for child in children) == ["0.0005", "0.001"]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    for child in children:
        logged = OmegaConf.load(Path(child.info.artifact_uri.removeprefix("file://")) / "config" / "params.yaml")
        assert str(logged.optim.lr) == child.data.params["optim.lr"]  # the job's own settings, not the project's
    winner = [child for child in children if child.data.tags["sweep_winner"] == "true"]
    assert [child.data.metrics["best_val_loss"] for child in winner] == [parent.data.metrics["best_val_loss"]]
    page = (fresh / "reports/sweep.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "optim.lr=0.001" in page


def test_a_job_equals_the_same_training_alone_and_dvc_files_stay_untouched(fresh: Path):
    before = (fresh / "models/best/model.safetensors").read_bytes()
    done = scratch.stage(fresh, "train", "--multirun", "seed=2,1")
    assert "python -m tuneledger.sweep.promote multirun/" in done.stdout
    (sweep,) = (fresh / "multirun").glob("*/*")
    alone = (fresh / "results/train/epochs.csv").read_bytes()
    assert (sweep / "1/results/train/epochs.csv").read_bytes() == alone  # seed=1, after another job in the process
    assert (sweep / "0/results/train/epochs.csv").read_bytes() != alone
    assert (sweep / "1/models/best/model.safetensors").read_bytes() == before
    assert (fresh / "models/best/model.safetensors").read_bytes() == before
    (parent,), _ = tracked(fresh)
    assert parent.info.status == "FINISHED"
    assert "2 trials of 1 setting: 2 finished" in (sweep / "sweep.md").read_text(encoding="utf-8")


def test_data_that_was_made_otherwise_is_refused(fresh: Path):
    done = scratch.stage(fresh, "train", "tokenizer.max_length=64", check=False)
    assert done.returncode == 2
    assert "tokenizer.max_length=64 (there: 48)" in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupting_a_sweep_ends_the_parent(fresh: Path):
    slow = ["trainer.max_epochs=300", "loader.batch_size=2"]
    process = subprocess.Popen(
        ["python", "-m", "tuneledger.stages.train", "--multirun", "seed=1,2", *slow],
        cwd=fresh,
        env=scratch.environment(PYTHONPATH="src"),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(fresh.glob("multirun/*/*/0/checkpoint/last.ckpt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 128 + signal.SIGINT
    assert "not finished" in output
    (parent,), (child,) = tracked(fresh)
    assert (parent.info.status, child.info.status) == ("KILLED", "KILLED")
    assert json.loads((fresh / "results/train/run.json").read_text())["mlflow_run_id"] != child.info.run_id
