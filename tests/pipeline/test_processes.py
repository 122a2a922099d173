"""`trainer=ddp` as commands: what starts several processes, what they leave, what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
import scratch

SETTINGS = ["experiment=smoke", "model.dropout=0", "loader.batch_size=25", "trainer.precision=32-true"]


def by_lightning(project: Path, *settings: str) -> str:
    done = scratch.stage(project, "train", *SETTINGS, *settings)
    return done.stdout + done.stderr


def by_torchrun(project: Path, *settings: str) -> str:
    command = ["torch.distributed.run", "--nproc-per-node=2", "-m", "tuneledger.stages.train", *SETTINGS, *settings]
    done = scratch.run(project, sys.executable, "-m", *command, PYTHONPATH="src")
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def alone(project: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The record of one process."""
    out = tmp_path_factory.mktemp("alone")
    by_lightning(project, f"hydra.run.dir={out}")
    return pd.read_csv(out / "results/train/steps.csv")


@pytest.mark.parametrize("start", [by_lightning, by_torchrun])
def test_two_processes_leave_what_one_does(start, project: Path, alone: pd.DataFrame, tmp_path: Path):
    (project / "outputs").mkdir(exist_ok=True)
    before = sorted((project / "outputs").rglob("*"))
    printed = start(project, "trainer=ddp", "trainer.accelerator=cpu", f"hydra.run.dir={tmp_path}")
    assert sorted((project / "outputs").rglob("*")) == before  # nor has another one made a folder
    assert printed.count("Validation Loss") == printed.count("trainer.devices = 2") == 1  # one process speaks
    assert "warn" not in printed.lower()
    record = pd.read_csv(tmp_path / "results/train/steps.csv")
    assert len(record) == 6
    pd.testing.assert_frame_equal(record, alone, rtol=0, atol=1e-6)
    assert (tmp_path / "models/best/model.safetensors").exists()
    assert not list(project.glob("checkpoints/*-hand"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["trainer.devices=0"], "error: trainer.devices = 0: give at least 1"),
        (["trainer=ddp", "loader.batch_size=1"], "error: loader.batch_size = 1: 2 processes train"),
        (["trainer=ddp", "seed=1,2", "--multirun"], "error: trainer.devices = 2: a sweep's trials"),
        (["trainer=auto,ddp", "--multirun"], "error: trainer.devices = 2: a sweep's trials"),
        (["trainer.devices=1,2", "--multirun"], "error: trainer.devices cannot be swept"),
    ],
)
def test_what_cannot_be_trained_in_processes(settings: list[str], message: str, project: Path):
    done = scratch.stage(project, "train", "experiment=smoke", *settings, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
