from __future__ import annotations

import shutil
from pathlib import Path

import scratch


def test_a_folder_with_a_space_in_its_name(tmp_path: Path):
    """With stand-ins for what `make setup` installs."""
    folder = tmp_path / "my project"
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(scratch.ROOT / name, folder)
    (programs / "python").write_text('#!/bin/sh\necho "python of the venv"\n')
    (programs / "dvc").write_text('#!/bin/sh\necho "dvc $*"\nexec python\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    (folder / ".venv" / ".installed").touch()
    made = scratch.run(folder, "make", "--silent", "--no-print-directory", "repro")  # which a make above would print
    assert made.stdout == "dvc repro\npython of the venv\n"
