"""The real pipeline, small: `dvc repro` once, in a scratch copy, with the smoke experiment on a few rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import scratch


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} must stand once in {file}"
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after `dvc repro`; tests may look at it and must not change it."""
    project = scratch.copy_project(tmp_path_factory.mktemp("pipeline") / "project", rows=60)
    edit(project / "conf" / "config.yaml", "experiment: null", "experiment: smoke")
    (project / "repro.txt").write_text(scratch.run(project, "dvc", "repro").stdout)
    scratch.git(project, "add", "--all")
    scratch.git(project, "commit", "--quiet", "--message", "repro")
    return project


@pytest.fixture
def fresh(finished: Path, tmp_path: Path) -> Path:
    """A copy of it without any MLflow store, to sweep in."""
    return scratch.copy_finished(finished, tmp_path / "project")


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project to work in, without tracking."""
    copy = tmp_path_factory.mktemp("copy") / "project"
    shutil.copytree(finished, copy, symlinks=True)
    edit(copy / "conf" / "config.yaml", "tracking: local", 'tracking: "off"')
    scratch.run(copy, "dvc", "repro")
    scratch.git(copy, "commit", "--quiet", "--all", "--message", "no tracking")
    return copy
