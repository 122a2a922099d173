"""Where everything lies. Stages and dvc.yaml use these places and no others.

Paths of stage inputs and outputs are relative to the code root, in which every stage runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuneledger.errors import UserError

PARAMS = Path("params.yaml")
PREPARED = Path("data/prepared")
AUDIT = Path("results/prepare/audit.json")
TOKENIZED = Path("data/tokenized")
BEST_MODEL = Path("models/best")
TRAIN_RESULTS = Path("results/train")
EVAL_RESULTS = Path("results/eval")
REPORTS = Path("reports")


def code_root() -> Path:
    """The checkout this package was imported from: the folder that holds conf/ and src/."""
    return Path(__file__).resolve().parents[2]


def store_root() -> Path:
    """Where history lives (mlruns/, checkpoints/): the main checkout, also for a queued experiment.

    DVC runs queued experiments in a temporary copy that it deletes, and names the main root in DVC_ROOT.
    """
    return Path(os.environ.get("DVC_ROOT") or code_root()).resolve()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it becomes `path`, on failure nothing changed.

    Works for a file and for a folder. Data reaches the disk before the rename, so that a power loss leaves
    either the old or the new content; of a folder, between two renames, perhaps neither, but never a mixture.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    old = path.with_name(f".{path.name}.{os.getpid()}.old.partial")
    remove(partial)
    try:
        yield partial
        _sync(partial)
        if path.is_dir():
            path.replace(old)
        partial.replace(path)
        _sync_folder(path.parent)
    finally:
        remove(partial)
        remove(old)


def remove(path: Path) -> None:
    """Delete a file or a whole folder; absent is fine."""
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def require(path: Path, maker: str = "dvc repro") -> Path:
    """`path` if it exists.

    Args:
        maker: the command that makes it.

    Raises:
        UserError: it does not.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: run `{maker}`, which writes it")
    return path


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write indented JSON whole or not at all; NaN is refused because JSON has none."""
    import json

    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with equal keys, at least one of them, under a header line, whole or not at all."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _remove_abandoned(path: Path) -> None:
    """Remove what processes that were killed left half-written under `path`'s temporary name."""
    for partial in path.parent.glob(f".{path.name}.*.partial"):
        pid = partial.name.removeprefix(f".{path.name}.").split(".")[0]
        if not (pid.isdigit() and _alive(int(pid))):
            remove(partial)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    files = path.rglob("*") if path.is_dir() else [path]
    for file in files:
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
