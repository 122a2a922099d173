"""`--multirun hydra/sweeper=search`: trials that stop early, and a search that survives its process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import scratch

pytest.importorskip("optuna")

# Three trials, then three more that know of them; of each three one goes on after the first epoch.
SEARCH = (
    "hydra/sweeper=search",
    "hydra.sweeper.n_trials=6",
    "hydra.sweeper.generation=3",
    "optim.lr=tag(log,interval(1e-4,1e-2))",
    "loader=padded,grouped",
    "tracking.log_model=false",
    "tracking.system_metrics=false",
)


def search(project: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return scratch.stage(project, "train", "--multirun", *SEARCH, *arguments, **changes)


@pytest.fixture(scope="module")
def undisturbed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after a search that nothing disturbed."""
    project = scratch.copy_finished(finished, tmp_path_factory.mktemp("search") / "project")
    search(project)
    return project


def the_sweep(project: Path) -> Path:
    (state,) = (project / "multirun").glob("*/*/sweep.json")
    return state.parent


def outcomes(sweep: Path) -> dict[str, dict]:
    files = sorted(sweep.glob("*/outcome.json"))
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def first_loss(trial: Path) -> float:
    header, first, *_ = (trial / "results/train/epochs.csv").read_text().splitlines()
    return float(first.split(",")[header.split(",").index("val_loss")])


def runs(project: Path) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    return client.search_runs([client.get_experiment_by_name("tuneledger").experiment_id])


def test_the_worse_stop_after_an_epoch_and_the_table_says_why(undisturbed: Path):
    sweep = the_sweep(undisturbed)
    known = outcomes(sweep)
    assert len(known) == 6
    finished = [name for name, trial in known.items() if trial["outcome"] == "finished"]
    pruned = [name for name, trial in known.items() if trial["outcome"] == "pruned"]
    assert len(finished) + len(pruned) == 6
    assert 1 <= len(finished) <= 3
    assert {known[name]["epochs"] for name in finished} == {2}
    assert {known[name]["epochs"] for name in pruned} == {1}
    for name in pruned:
        assert re.fullmatch(
            r"validation loss \d\.\d{4} after epoch 1: not among the best [12] of [36]", known[name]["reason"]
        )
        assert known[name]["reason"] in (sweep / "sweep.md").read_text()
        assert not (sweep / name / "models").exists()
    assert {name in pruned for name in ("0", "1", "2")} == {True, False}
    assert [name for name in ("0", "1", "2") if name in finished] == [
        min(("0", "1", "2"), key=lambda name: first_loss(sweep / name))
    ]
    assert not list(sweep.glob("*/checkpoint/*.ckpt"))


def test_every_trial_is_a_child_run_with_its_outcome_and_parameters(undisturbed: Path):
    sweep = the_sweep(undisturbed)
    proposals = json.loads((sweep / "proposals.json").read_text())
    assert {run.info.status for run in runs(undisturbed)} == {"FINISHED"}
    children = {run.info.run_id: run for run in runs(undisturbed) if "mlflow.parentRunId" in run.data.tags}
    assert len(children) == len(proposals) == 6
    for name, trial in outcomes(sweep).items():
        child = children[(sweep / name / "checkpoint/mlflow_run_id").read_text().strip()]
        assert child.data.tags["outcome"] == trial["outcome"]
        assert float(child.data.params["optim.lr"]) == proposals[int(name)]["optim.lr"]
        grouped = proposals[int(name)]["loader"] == "grouped"
        assert child.data.params["loader.group_by_length"] == str(grouped)
    assert sum(child.data.tags["sweep_winner"] == "true" for child in children.values()) == 1


def test_killed_with_all_its_children_and_started_again_it_ends_as_undisturbed(
    finished: Path, undisturbed: Path, tmp_path: Path
):
    project = scratch.copy_finished(finished, tmp_path / "project")
    process = scratch.start_sweep(project, *SEARCH)
    deadline = time.monotonic() + 120
    while not list(project.glob("multirun/*/*/4")):  # in the middle of the second generation
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:  # also the one that talks to MLflow, which would have tidied up
        member.kill()
    psutil.wait_procs(family)
    process.communicate()
    sweep = the_sweep(project)
    known = {file: file.read_bytes() for file in sweep.glob("*/outcome.json") if b'"paused"' not in file.read_bytes()}
    times = {file: file.stat().st_mtime_ns for file in known}
    assert 3 <= len(known) < 6
    assert "RUNNING" in {run.info.status for run in runs(project)}

    done = search(project)
    assert f"going on with {sweep}" in done.stdout
    assert scratch.timeless(the_sweep(project)) == scratch.timeless(the_sweep(undisturbed))
    proposals = (the_sweep(where) / "proposals.json" for where in (project, undisturbed))
    assert len({file.read_bytes() for file in proposals}) == 1
    assert {file: file.read_bytes() for file in known} == known
    assert {file: file.stat().st_mtime_ns for file in known} == times
    assert {run.info.status for run in runs(project)} == {"FINISHED"}
    assert len(runs(project)) == 1 + 6
    launched = " ".join(re.findall(r"#\d : (.*)", done.stdout))
    values = json.loads((sweep / "proposals.json").read_text())
    ended = {int(file.parent.name) for file in known}
    again = {number for number in range(6) if f"optim.lr={values[number]['optim.lr']} " in launched}
    assert again and not again & ended


def test_a_grid_whose_trials_pause_fail_and_diverge(finished: Path, tmp_path: Path):
    project = scratch.copy_finished(finished, tmp_path / "project")
    grid = ["hydra/sweeper=search", "hydra.sweeper.sampler=grid", "optim.lr=1e-3,0,1e30", "tracking.enabled=false"]
    grid.append("hydra/launcher=parallel")
    done = scratch.stage(project, "train", "--multirun", *grid, check=False)
    assert done.returncode == 2
    assert "error: optim.lr = 0: give a positive number" in done.stderr
    sweep = the_sweep(project)
    assert [trial["outcome"] for trial in outcomes(sweep).values()] == ["finished", "failed", "diverged"]
    # The first one has the project's own settings, and was trained in two goes.
    assert re.findall(r"#0 : .*", done.stdout) == [
        "#0 : tracking.enabled=false optim.lr=0.001 +until_epoch=1",
        "#0 : tracking.enabled=false optim.lr=0.001",
    ]
    for file in ("results/train/epochs.csv", "results/train/steps.csv", "models/best/model.safetensors"):
        assert (sweep / "0" / file).read_bytes() == (finished / file).read_bytes()

    # As if killed before its end: the exit code then still tells of the failure.
    state = json.loads((sweep / "sweep.json").read_text())
    assert state.pop("winner") == 0
    (sweep / "sweep.json").write_text(json.dumps({**state, "finished": False}))
    again = scratch.stage(project, "train", "--multirun", *grid, check=False)
    assert again.returncode == 2
    assert again.stderr == "error: optim.lr = 0: give a positive number, such as 1e-4\n"
    assert "#0" not in again.stdout
    assert json.loads((sweep / "sweep.json").read_text())["winner"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["+hydra.sweeper.n_trial=5", "seed=1,2"],
            "unknown key hydra.sweeper.n_trial: did you mean hydra.sweeper.n_trials?",
        ),
        (["seed=1"], "nothing to search: give a key several values, such as optim.lr=1e-5,1e-4 or interval(1e-5,1e-3)"),
        (["optim.lrr=tag(log,interval(1,3))"], "unknown key optim.lrr: did you mean optim.lr?"),
    ],
)
def test_what_cannot_be_searched_is_told_in_one_line_before_anything_is_done(finished: Path, arguments, message):
    done = scratch.stage(finished, "train", "--multirun", "hydra/sweeper=search", *arguments, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (2, f"error: {message}\n", "")
    assert not (finished / "multirun").exists()


@pytest.fixture
def without(tmp_path: Path) -> str:
    """A PYTHONPATH on which Optuna, torch and MLflow cannot be imported."""
    for name in ("optuna", "torch", "mlflow"):
        (tmp_path / f"{name}.py").write_text(
            f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n"
        )
    return f"src{os.pathsep}{tmp_path}"


def test_without_optuna_it_says_what_to_install(finished: Path, without: str):
    command = [sys.executable, "-m", "tuneledger.stages.train", "--multirun", "hydra/sweeper=search", "seed=1,2"]
    done = scratch.run(finished, *command, PYTHONPATH=without, check=False)
    expected = "error: hydra/sweeper=search needs Optuna: pip install 'tuneledger[sweep]'\n"
    assert (done.returncode, done.stderr, done.stdout) == (2, expected, "")


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["--hydra-help"]])
def test_a_plain_start_needs_none_of_them(finished: Path, without: str, arguments):
    command = [sys.executable, "-m", "tuneledger.stages.train", *arguments]
    assert scratch.run(finished, *command, PYTHONPATH=without).stdout
