"""A disk that takes no more: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import scratch

LIMIT = 1_000_000  # bytes a file may have: too few for the tiny model's 4 MB, enough for everything small


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = scratch.copy_project(tmp_path / "project", rows=40)
    for stage in ("prepare", "tokenize"):
        scratch.stage(project, stage)
    return project


def test_training_that_cannot_save(project: Path):
    settings = ["experiment=smoke", "tokenizer.max_length=128", 'tracking="off"']
    done = subprocess.run(
        [sys.executable, "-m", "tuneledger.stages.train", *settings],
        cwd=project,
        env=scratch.environment(PYTHONPATH="src"),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT)),
    )
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "checkpoints/" in line
    assert "Traceback" not in done.stderr
    assert not list(project.rglob("*.partial"))
    assert not list(project.rglob("*.safetensors"))
    assert not list((project / "outputs").rglob("run.json"))


def test_preparing_that_cannot_write_leaves_the_old_data(project: Path):
    before = json.loads((project / "data/prepared/schema.json").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "tuneledger.stages.prepare"],
        cwd=project,
        env=scratch.environment(PYTHONPATH="src"),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)),
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert json.loads((project / "data/prepared/schema.json").read_text()) == before
    assert not list(project.rglob("*.partial"))
