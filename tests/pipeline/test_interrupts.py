"""A signal ends a training with a non-zero code and nothing half done; `dvc repro` then goes on from there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import scratch
from omegaconf import OmegaConf

SLOW = ["loader.batch_size=2", "trainer.max_epochs=4", "trainer.checkpoint_every_n_steps=20"]

REPRO = ("dvc", "repro", "--single-item", "--force", "train")  # forced: DVC has the undisturbed outcome in its cache


@pytest.fixture(scope="module")
def slow(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project whose settings now ask for a longer training."""
    copy = tmp_path_factory.mktemp("slow") / "project"
    shutil.copytree(finished, copy, symlinks=True)
    params = OmegaConf.load(copy / "params.yaml")
    OmegaConf.save(OmegaConf.merge(params, OmegaConf.from_dotlist(SLOW)), copy / "params.yaml")
    return copy


@pytest.fixture(scope="module")
def undisturbed(slow: Path) -> tuple[bytes, bytes, bytes]:
    """What that training gives if nobody interrupts it."""
    assert "going on from" not in scratch.run(slow, "dvc", "repro", "train").stdout
    return result(slow)


def start(project: Path) -> subprocess.Popen[str]:
    """`dvc repro train` in a process group of its own, running until the first checkpoint exists."""
    process = subprocess.Popen(
        REPRO,
        cwd=project,
        env=scratch.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    # A run whose id the training has not learnt yet would not be the one that the next training goes on with.
    while not all(list(project.glob(f"checkpoints/*/{name}")) for name in ("last.ckpt", "mlflow_run_id")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def runs(project: Path) -> dict[str, str]:
    """Status of each run in the project's store."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tuneledger").experiment_id
    return {run.info.run_id: run.info.status for run in client.search_runs([experiment])}


def wait_for_status(project: Path, run_id: str, status: str) -> None:
    deadline = time.monotonic() + 60
    while runs(project)[run_id] != status:
        assert time.monotonic() < deadline, f"{run_id} is {runs(project)[run_id]}, not {status}"
        time.sleep(0.5)


def result(project: Path) -> tuple[bytes, bytes, bytes]:
    files = ("models/best/model.safetensors", "results/train/epochs.csv", "results/train/steps.csv")
    return tuple((project / name).read_bytes() for name in files)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_repeated_equals_undisturbed(slow: Path, undisturbed: tuple, signum: signal.Signals):
    known = set(runs(slow))
    process = start(slow)
    os.killpg(process.pid, signum)
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert "Traceback" not in output
    (run_id,) = set(runs(slow)) - known
    wait_for_status(slow, run_id, "KILLED")
    assert not (slow / "models/best").exists()
    assert not (slow / "results/train/run.json").exists()

    again = scratch.run(slow, *REPRO).stdout
    assert "going on from" in again
    assert runs(slow)[run_id] == "FINISHED"
    assert set(runs(slow)) - known == {run_id}
    assert not list(slow.glob("checkpoints/*/last.ckpt"))

    assert result(slow) == undisturbed


def test_by_hand_sigterm_gives_143(slow: Path):
    command = ["python", "-m", "tuneledger.stages.train", "--config-dir=.", "--config-name=params", "seed=7"]
    environment = scratch.environment(PYTHONPATH="src")
    process = subprocess.Popen(command, cwd=slow, env=environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(slow.glob("checkpoints/*/last.ckpt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM
    assert "saving after this step" in output
