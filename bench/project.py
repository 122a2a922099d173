"""A private copy of the project to measure in, and what names it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tuneledger.errors import UserError
from tuneledger.ledger.provenance import file_digests
from tuneledger.paths import PARAMS

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
WORK = BENCH / "work"
MRPC = ROOT / "data" / "raw" / "mrpc"  # as in conf/data/mrpc.yaml
ROWS = {"train.tsv": 3668, "dev.tsv": 408}


def mrpc_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of GLUE's two files in `folder`; UserError if one is missing."""
    digests = {name: digest for name, digest in file_digests(folder).items() if name in ROWS}
    if digests.keys() != ROWS.keys():
        raise UserError(f"{folder} holds no {' and '.join(ROWS)}: give --data, the folder with GLUE's MRPC")
    return digests


def sources() -> dict[str, str]:
    """SHA-256 of each file that a training runs or is set by."""
    found = {
        f"{folder}/{name}": digest for folder in ("src", "conf") for name, digest in file_digests(ROOT / folder).items()
    }
    return {name: digest for name, digest in found.items() if not name.endswith(".pyc")}


def fingerprint(*facts: Any) -> str:
    """12 hex digits over what figures depend on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def make_project(project: Path, data: Path, *settings: str) -> None:
    """Copy what a training needs of the project, put `data` where conf/ expects MRPC, and tokenize it as set."""
    for folder in ("src", "conf"):
        shutil.copytree(ROOT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("dvc.yaml", "dvc.lock"):
        shutil.copy2(ROOT / name, project / name)
    (project / "data" / "raw").mkdir(parents=True)
    (project / "data" / "raw" / "mrpc").symlink_to(data)  # no copy, so that no commit can hold it
    (project / PARAMS).write_text(stage(project, "train", *settings, "--cfg", "job", "--resolve"), encoding="utf-8")
    stage(project, "prepare")
    stage(project, "tokenize")


def stage(project: Path, name: str, *arguments: str, **variables: str) -> str:
    """What a stage printed that ran in a copy of the project; UserError if it failed."""
    command = [sys.executable, "-m", f"tuneledger.stages.{name}", *arguments]
    done = subprocess.run(command, cwd=project, env=environ_of(project) | variables, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"stage {name} failed: {done.stderr.strip()}")
    return done.stdout


def environ_of(project: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(project / "src")}
