"""What people who know Hydra type: help, the composed job, the defaults list, shell completion, errors that help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import scratch

ROOT = Path(__file__).resolve().parents[2]


def train(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return scratch.stage(ROOT, "train", *arguments, check=False, **changes)


def test_help_lists_groups_and_settings_with_the_overrides_applied():
    done = train("--help", "model=tiny")
    assert done.returncode == 0
    assert "  model=      bert_base, minilm, tiny" in done.stdout
    assert "    hidden_size: 32" in done.stdout
    assert "--multirun" in done.stdout


def test_cfg_job_shows_the_composed_settings():
    done = train("--cfg", "job", "optim.lr=3e-5")
    assert done.returncode == 0
    assert "lr: 3.0e-05" in done.stdout
    assert "hydra:" not in done.stdout


def test_info_defaults_names_the_files():
    done = train("--info", "defaults", "experiment=deck")
    assert done.returncode == 0
    assert "experiment/deck" in done.stdout
    assert "data/mrpc" in done.stdout
    assert "data/twins" not in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("optim.l", "optim.layer_decay= optim.lr="), ("model=", "model=bert_base model=minilm model=tiny")],
)
def test_shell_completion(typed: str, offered: str):
    line = f"tuneledger-train {typed}"
    done = train("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)), COMP_CWORD="1")
    assert done.stdout.strip() == offered


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = scratch.copy_project(tmp_path_factory.mktemp("habits") / "project", rows=20)
    for stage in ("prepare", "tokenize"):
        scratch.stage(project, stage)
    return project


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("optim.lrr=3e-5", "error: unknown key optim.lrr: did you mean optim.lr?"),
        ("model=mini", "error: In 'config': Could not find 'model/mini'"),
        ("optim.lr=", "error: optim.lr = : "),
        ("optim.lr=fast", "error: optim.lr = fast: "),
        ("+optim.momentum=0.9", "error: unknown key optim.momentum: known: "),
    ],
)
def test_a_mistake_is_one_message_without_traceback(argument: str, message: str, project: Path):
    done = scratch.stage(project, "train", argument, "tracking=off", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
    assert not list(project.rglob("*.safetensors"))


def test_an_unknown_model_lists_the_known_ones():
    done = train("model=mini")
    assert all(name in done.stderr for name in ("bert_base", "minilm", "tiny"))
    assert sys.executable not in done.stderr
