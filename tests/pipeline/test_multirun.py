"""`--multirun`: a parent run with a child per job, a page and a ranked table, jobs that do not disturb each other."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scratch
from omegaconf import OmegaConf

from tuneledger.stages.train import selected

COMMAND = (sys.executable, "-m", "tuneledger.stages.train", "--multirun")
GRID = ("optim.lr=1e-3,5e-4", "seed=1,2")
LEAN = ("tracking.log_model=false", "tracking.system_metrics=false")  # where they are not looked at, for speed


def tracked(project: Path) -> tuple[list, list]:
    """(parents, children) among the runs of the project's store, once those that write to it are done."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tuneledger").experiment_id
    deadline = time.monotonic() + 30
    while "RUNNING" in {run.info.status for run in client.search_runs([experiment])} and time.monotonic() < deadline:
        time.sleep(0.1)
    found = client.search_runs([experiment])
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    return [run for run in found if run not in children], children


def sweeps(project: Path) -> list[Path]:
    return sorted(file.parent for file in (project / "multirun").glob("*/*/sweep.json"))


def outcomes(sweep: Path) -> dict[str, bytes]:
    return {file.parent.name: file.read_bytes() for file in sorted(sweep.glob("*/outcome.json"))}


def wait_until(process: subprocess.Popen[str], condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def grid(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after a sweep over learning rates and seeds that nothing disturbed."""
    project = scratch.copy_finished(finished, tmp_path_factory.mktemp("grid") / "project")
    pickled = "+hydra.callbacks.values._target_=hydra.experimental.callbacks.PickleJobInfoCallback"
    (project / "printed.txt").write_text(scratch.stage(project, "train", "--multirun", *GRID, pickled).stdout)
    return project


def test_a_parent_with_a_child_for_each_job_and_the_winner_registered(grid: Path):
    from mlflow import MlflowClient

    (parent,), children = tracked(grid)
    assert parent.info.status == "FINISHED"
    assert {child.info.status for child in children} == {"FINISHED"}
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    settings = {(child.data.params["optim.lr"], child.data.params["seed"]) for child in children}
    assert settings == {("0.001", "1"), ("0.001", "2"), ("0.0005", "1"), ("0.0005", "2")}
    assert {child.data.tags["outcome"] for child in children} == {"finished"}
    assert {"optim.lr", "seed"} == set(parent.data.params["swept"].split(", "))
    assert {child.data.tags["swept.optim.lr"] for child in children} == {"0.001", "0.0005"}

    state = json.loads((sweeps(grid)[0] / "sweep.json").read_text())
    assert state["finished"]
    (winner,) = (child for child in children if child.data.tags["sweep_winner"] == "true")
    job = sweeps(grid)[0] / str(state["winner"])
    assert winner.info.run_id == json.loads((job / "results/train/run.json").read_text())["mlflow_run_id"]
    assert parent.data.metrics["best_accuracy"] == winner.data.metrics["best_accuracy"]
    later = [child.info.start_time for child in children if child.info.start_time > winner.info.start_time]
    assert all(winner.info.end_time <= start for start in later)  # the model was stored at the sweep's end

    version = MlflowClient(f"sqlite:///{grid / 'mlflow.db'}").get_model_version_by_alias(
        "tuneledger-twins", "sweep-winner"
    )
    assert (version.run_id, str(version.version)) == (winner.info.run_id, "1")


def test_the_view_shows_what_was_swept_with_the_best_first(grid: Path):
    from mlflow import MlflowClient

    (parent,), children = tracked(grid)
    key = f"sweep-{parent.info.run_id[:8]}"
    assert f"viewStateShareKey={key}" in (grid / "printed.txt").read_text()
    client = MlflowClient(f"sqlite:///{grid / 'mlflow.db'}")
    view = json.loads(client.get_experiment_by_name("tuneledger").tags[f"mlflow.sharedViewState.{key}"])
    order = f"{view['orderByKey']} {'ASC' if view['orderByAsc'] else 'DESC'}"
    shown = client.search_runs([parent.info.experiment_id], view["searchFilter"], order_by=[order])
    assert {run.info.run_id for run in shown} == {run.info.run_id for run in children}
    accuracies = [run.data.metrics["best_accuracy"] for run in shown]
    assert accuracies == sorted(accuracies, reverse=True)
    for column in view["selectedColumns"]:
        kind, name = re.fullmatch(r"(tags|metrics|params)\.`(.+)`", column).groups()
        assert all(name in getattr(run.data, kind) for run in shown) or name == "usd", column  # no price for a CPU


def test_the_page_and_the_table(grid: Path):
    (sweep,) = sweeps(grid)
    page = (sweep / "sweep.html").read_text(encoding="utf-8")
    assert page == (grid / "reports/sweep.html").read_text(encoding="utf-8")
    assert "<svg" in page
    table = (sweep / "sweep.md").read_text(encoding="utf-8")
    assert table in (grid / "printed.txt").read_text()
    assert "4 trials of 2 settings: 4 finished." in table
    assert f"python -m tuneledger.sweep.promote multirun/{sweep.parent.name}/{sweep.name}\n" in table
    rows = [line for line in table.splitlines() if line.startswith("| ") and "optim.lr=" in line]
    assert [row.split("|")[1].strip() for row in rows][:2] == ["1", "2"]
    (parent,), _ = tracked(grid)
    stored = Path(parent.info.artifact_uri.removeprefix("file://"))
    assert {file.name for file in stored.iterdir()} == {"sweep.html", "sweep.md"}


def test_a_job_equals_the_same_training_alone_and_dvc_files_stay_untouched(grid: Path, finished: Path):
    (sweep,) = sweeps(grid)
    alone = (finished / "results/train/epochs.csv").read_bytes()  # optim.lr=1e-3 and seed=1, as in the first job
    assert (sweep / "0/results/train/epochs.csv").read_bytes() == alone
    assert (sweep / "1/results/train/epochs.csv").read_bytes() != alone
    model = "models/best/model.safetensors"
    assert (sweep / "0" / model).read_bytes() == (finished / model).read_bytes() == (grid / model).read_bytes()
    again = (finished / "results/train/run.json").read_bytes()
    assert (grid / "results/train/run.json").read_bytes() == again


def test_a_job_returns_its_lowest_validation_loss(grid: Path):
    (sweep,) = sweeps(grid)
    for job in sweep.glob("[0-9]"):
        with (job / ".hydra/job_return.pickle").open("rb") as file:
            value = pickle.load(file).return_value
        lines = (job / "results/train/epochs.csv").read_text().splitlines()
        column = lines[0].split(",").index("val_loss")
        assert value == min(float(line.split(",")[column]) for line in lines[1:])


@pytest.mark.parametrize(("metric", "value"), [("accuracy", 0.8), ("f1", 0.7), ("val_loss", 0.4), ("epoch", 0.4)])
def test_a_run_by_itself_returns_the_kept_epochs_score(metric, value):
    kept = {"accuracy": 0.8, "f1": 0.7, "val_loss": 0.4, "epoch": 2}
    fit = SimpleNamespace(epochs=[{}, kept, {}], best_epoch=2)
    assert selected({"trainer": {"select": {"metric": metric}}}, fit) == value


def test_no_job_leaves_a_checkpoint(grid: Path):
    assert {file.name for file in sweeps(grid)[0].glob("*/checkpoint/*")} == {"mlflow_run_id"}
    assert not list(grid.glob("checkpoints/*"))


def test_two_at_a_time_on_a_new_store_with_a_job_that_fails_and_one_that_diverges(fresh: Path):
    rates = f"optim.lr={','.join(('1e-3', '0', '1e30', '5e-4'))}"
    done = scratch.stage(fresh, "train", "--multirun", rates, "hydra/launcher=parallel", *LEAN, check=False)
    assert done.returncode == 2
    assert "error: optim.lr = 0: give a positive number" in done.stderr
    assert "Traceback" not in done.stderr
    (sweep,) = sweeps(fresh)
    assert [json.loads(text)["outcome"] for text in outcomes(sweep).values()] == [
        "finished", "failed", "diverged", "finished",
    ]  # fmt: skip
    assert "4 trials of 4 settings: 2 finished, 1 diverged, 1 failed." in done.stdout
    assert re.search(r"\| optim.lr=0 \| failed \(optim\.lr = 0: give a positive number", done.stdout)
    assert re.search(r"\| optim.lr=1e\+30 \| diverged \(the loss became nan at step \d", done.stdout)

    (parent,), children = tracked(fresh)
    assert parent.info.status == "FAILED"  # because a job failed
    statuses = {child.data.params["optim.lr"]: child.info.status for child in children}
    assert statuses == {"0.001": "FINISHED", "0.0005": "FINISHED", "1e+30": "FAILED"}
    told = {child.data.params["optim.lr"]: child.data.tags["outcome"] for child in children}
    assert told == {"0.001": "finished", "0.0005": "finished", "1e+30": "diverged"}
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    (why,) = (child.data.tags["reason"] for child in children if child.data.tags["outcome"] == "diverged")
    assert why.startswith("the loss became nan at step ")
    for child in children:
        if child.info.status == "FINISHED":
            logged = OmegaConf.load(Path(child.info.artifact_uri.removeprefix("file://")) / "config" / "params.yaml")
            assert str(logged.optim.lr) == child.data.params["optim.lr"]  # the job's own settings, not the project's
    assert json.loads((sweep / "sweep.json").read_text())["finished"]  # nothing is left to go on with


def test_data_that_was_made_otherwise_is_refused(fresh: Path):
    done = scratch.stage(fresh, "train", "tokenizer.max_length=64", check=False)
    assert done.returncode == 2
    assert "tokenizer.max_length=64 (there: 48)" in done.stderr
    assert "Traceback" not in done.stderr


def test_killed_in_the_middle_and_started_again_it_ends_as_undisturbed(fresh: Path, grid: Path):
    untracked = "tracking.enabled=false"
    process = scratch.start_sweep(fresh, *GRID, untracked)
    wait_until(process, lambda: len(outcomes(sweeps(fresh)[0])) == 2 if sweeps(fresh) else False)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (sweep,) = sweeps(fresh)
    before = outcomes(sweep)
    assert 2 <= len(before) < 4
    times = {name: (sweep / name / "outcome.json").stat().st_mtime_ns for name in before}
    weights = {name: (sweep / name / "models/best/model.safetensors").stat().st_mtime_ns for name in before}

    done = scratch.stage(fresh, "train", "--multirun", *GRID, untracked)
    assert sweeps(fresh) == [sweep]
    assert f"going on with {sweep}: trials that ended are not run again" in done.stdout
    assert scratch.timeless(sweep) == scratch.timeless(sweeps(grid)[0])
    after = outcomes(sweep)
    assert {name: after[name] for name in before} == before
    assert {name: (sweep / name / "outcome.json").stat().st_mtime_ns for name in before} == times
    assert {name: (sweep / name / "models/best/model.safetensors").stat().st_mtime_ns for name in before} == weights
    for name in after:
        ours, theirs = (folder / name / "results/train/epochs.csv" for folder in (sweep, sweeps(grid)[0]))
        assert ours.read_bytes() == theirs.read_bytes()


def test_interrupting_a_sweep_ends_the_parent(fresh: Path):
    process = scratch.start_sweep(fresh, "seed=1,2", "trainer.max_epochs=300", "loader.batch_size=2", *LEAN)
    wait_until(process, lambda: list(fresh.glob("multirun/*/*/0/checkpoint/last.ckpt")))
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 128 + signal.SIGINT
    assert "1 trial of 1 setting: 1 not finished." in output
    (parent,), (child,) = tracked(fresh)
    assert (parent.info.status, child.info.status) == ("KILLED", "KILLED")
    assert child.data.tags["outcome"] == "unfinished"
    assert json.loads((fresh / "results/train/run.json").read_text())["mlflow_run_id"] != child.info.run_id
    assert not json.loads((sweeps(fresh)[0] / "sweep.json").read_text())["finished"]


def test_two_sweeps_at_the_same_moment_in_a_fresh_project_both_finish(finished: Path, tmp_path: Path):
    project = scratch.copy_finished(
        finished, tmp_path / "pröject (1), it's", "tokenized"
    )  # a name that Hydra reads only in quotes
    processes = [scratch.start_sweep(project, f"optim.lr={rates}", *LEAN) for rates in ("1e-3,5e-4", "2e-3,1e-4")]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    assert sum("running `dvc repro tokenize`" in output for output in outputs) == 1
    found = sweeps(project)
    assert len(found) == 2
    assert [len(outcomes(sweep)) for sweep in found] == [2, 2]
    parents, children = tracked(project)
    assert [parent.info.status for parent in parents] == ["FINISHED", "FINISHED"]
    assert {child.info.status for child in children} == {"FINISHED"}
    of = [child.data.tags["mlflow.parentRunId"] for child in children]
    assert sorted(of.count(parent.info.run_id) for parent in parents) == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.lrr=1,2"], "unknown key optim.lrr: did you mean optim.lr?"),
        (["model=tiny,brt"], "In 'config': Could not find 'model/brt'"),
        (["optim.lr=interval(1,2)"], "optim.lr is an interval, which has no list of values: use hydra/sweeper=search"),
        (["seed=1,2", "hydra/launcher=slurm"], "there is no srun on this machine"),
        (["seed=1,2", "tokenizer.max_length=64"], "{tokenized} was made with other settings than tokenizer.max_length"),
        (["seed=1,2", "data.label=${model.pth}"], "Interpolation key 'model.pth' not found"),
        (["tokenizer.max_length=48,64"], "tokenizer.max_length cannot be swept"),
    ],
)
def test_what_cannot_be_swept_is_told_before_anything_is_done(finished: Path, arguments, message):
    if "hydra/launcher=slurm" in arguments:
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    done = scratch.stage(finished, "train", "--multirun", *arguments, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message.format(tokenized=finished / 'data/tokenized')}")
    assert done.stdout == ""
    assert not (finished / "multirun").exists()
