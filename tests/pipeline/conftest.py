"""The real pipeline, small: `dvc repro` once, in a scratch copy, with the smoke experiment on a few rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import scratch
from filelock import FileLock


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} must stand once in {file}"
    file.write_text(text.replace(old, new), encoding="utf-8")


def made_once(name: str, make: Callable[[Path], None], factory: pytest.TempPathFactory, worker: str) -> Path:
    """A folder that the first test process to ask for it makes; for copying, since the others have the same one.

    Copies of it have MLflow databases of their own, whose runs keep their artifacts here.
    """
    base = factory.getbasetemp()
    folder = (base if worker == "master" else base.parent) / name
    with FileLock(f"{folder}.lock"):
        if not Path(f"{folder}.made").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
            make(folder)
            Path(f"{folder}.made").touch()
    return folder


def repro(project: Path) -> None:
    scratch.copy_project(project, rows=60)
    edit(project / "conf" / "config.yaml", "experiment: null", "experiment: smoke")
    (project / "repro.txt").write_text(scratch.run(project, "dvc", "repro").stdout)
    scratch.git(project, "add", "--all")
    scratch.git(project, "commit", "--quiet", "--message", "repro")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A project after `dvc repro`; tests may look at it and must not change it."""
    made = made_once("finished", repro, tmp_path_factory, worker_id)
    return shutil.copytree(made, tmp_path_factory.mktemp("pipeline") / "project", symlinks=True)


@pytest.fixture
def fresh(finished: Path, tmp_path: Path) -> Path:
    """A copy of it without any MLflow store, to sweep in."""
    return scratch.copy_finished(finished, tmp_path / "project")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A finished project without tracking to work in."""

    def without_tracking(copy: Path) -> None:
        made = made_once("finished", repro, tmp_path_factory, worker_id)
        shutil.copytree(made, copy, symlinks=True)
        edit(copy / "conf" / "config.yaml", "tracking: local", 'tracking: "off"')
        scratch.run(copy, "dvc", "repro")
        scratch.git(copy, "commit", "--quiet", "--all", "--message", "no tracking")

    made = made_once("untracked", without_tracking, tmp_path_factory, worker_id)
    return shutil.copytree(made, tmp_path_factory.mktemp("copy") / "project", symlinks=True)
