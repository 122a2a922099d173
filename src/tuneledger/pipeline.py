"""Asking DVC for what a command started by hand needs."""

from __future__ import annotations

import subprocess
import sys

from filelock import FileLock

from tuneledger.errors import UserError
from tuneledger.paths import TOKENIZED, code_root


def ensure_tokenized() -> None:
    """Let DVC tokenize the data if that was never done, as in a fresh clone; data that is there is left alone.

    Raises:
        UserError: DVC could not.
    """
    folder = code_root() / TOKENIZED
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / ".tokenize.lock"):
        if (folder / "meta.json").exists():
            return
        print(f"{TOKENIZED} is not there yet: running `dvc repro tokenize`", flush=True)
        done = subprocess.run([sys.executable, "-m", "dvc", "repro", "tokenize"], cwd=code_root())
    if done.returncode:
        raise UserError("`dvc repro tokenize` failed, for the reason above")
