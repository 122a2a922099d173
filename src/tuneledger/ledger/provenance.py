"""Where a run came from: commit, DVC experiment, fingerprints of data, code and settings."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tuneledger.paths import code_root

WRITTEN_BY_DVC = ("dvc.lock", "pictures/dvc.lock", "results", "reports")
INPUTS = ("src", "conf", "data/raw")


def git_commit(root: Path) -> tuple[str | None, bool]:
    """(commit, dirty): dirty if a tracked file differs from it other than those the pipeline itself writes, or if
    there is a file among the pipeline's inputs that is neither tracked nor ignored.

    (None, False) outside git or before the first commit.
    """
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return None, False
    others = [f":(exclude){path}" for path in WRITTEN_BY_DVC]
    edited = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *others)
    new = _git(root, "ls-files", "--others", "--exclude-standard", "--", *INPUTS)
    return commit, bool(edited or new)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def tokens_md5(root: Path) -> str | None:
    """DVC's checksum of data/tokenized by dvc.lock, which is up to date before `train` starts; None if unknown."""
    lock = root / "dvc.lock"
    if not lock.exists():
        return None
    stages = OmegaConf.load(lock).get("stages") or {}
    outs = (stages.get("tokenize") or {}).get("outs") or []
    return next((out.get("md5") for out in outs if out.get("path") == "data/tokenized"), None)


def run_tags(root: Path, run_key: str, conf_sha: str) -> dict[str, str]:
    """Tags that tie a tracked run to its code, data and process; all plain text, none secret."""
    commit, dirty = git_commit(root)
    tags = {
        "mlflow.source.name": "tuneledger.stages.train",
        "mlflow.source.git.commit": commit,
        "git.dirty": str(dirty).lower() if commit else None,
        "dvc.stage": os.environ.get("DVC_STAGE"),
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME"),
        "dvc.exp_baseline_rev": os.environ.get("DVC_EXP_BASELINE_REV"),
        "dvc.tokens_md5": tokens_md5(root),
        "conf_sha": conf_sha,
        "run_key": run_key,
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "mlflow.parentRunId": os.environ.get("MLFLOW_PARENT_RUN_ID"),
    }
    return {name: value for name, value in tags.items() if value}


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its relative name."""
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as handle:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(handle, "sha256").hexdigest()
    return digests


def run_key(settings: dict[str, Any], digests: dict[str, str]) -> str:
    """Name of a training: 16 hex digits over all that its weights follow from.

    Checkpoints are kept under it, so one is only ever resumed with the same settings, data, code and libraries.

    Args:
        settings: the sections that decide the weights.
        digests: of the training data.
    """
    source = code_root() / "src" / "tuneledger"
    code = {name: digest for name, digest in file_digests(source).items() if name.endswith((".py", ".cpp", ".h"))}
    libraries = {name: version(name) for name in ("torch", "transformers", "lightning", "numpy")}
    everything = json.dumps([settings, digests, code, libraries], sort_keys=True)
    return hashlib.sha256(everything.encode()).hexdigest()[:16]
