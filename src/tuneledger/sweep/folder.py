"""Where a sweep lies. The same command after an interruption goes on in the same folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tuneledger.errors import UserError
from tuneledger.paths import write_json

STATE = "sweep.json"


@dataclass(frozen=True)
class SweepFolder:
    """A folder that this process holds until it ends.

    Args:
        path: absolute.
        lock: held; a second sweep of the same command sees it and takes a folder of its own.
        resumed: whether an interrupted sweep is gone on with.
    """

    path: Path
    lock: FileLock
    resumed: bool

    def finish(self, winner: int | None) -> None:
        """Mark the sweep as complete, with its best trial's number: the same command then starts another one."""
        write_json(self.path / STATE, {**_state(self.path), "finished": True, "winner": winner})


def claim(root: Path, path: Path, identity: str, command: str, *, given: bool) -> SweepFolder:
    """The folder of the unfinished sweep with this identity below `root`, else a new one.

    Args:
        root: multirun/.
        path: where a new sweep goes; with a number behind it if that is taken.
        identity: digest of all that the trials' results follow from.
        command: as a person would type it.
        given: the person named `path`, so that it is this folder or none.

    Raises:
        UserError: `given`, and another sweep is there.
    """
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):
        candidates = [path] if given else [file.parent for file in sorted(root.glob(f"*/*/{STATE}"))]
        for folder in candidates:
            state = _state(folder)
            if not state or state["finished"]:
                continue
            if state["identity"] == identity and (lock := _try_lock(folder)):
                return SweepFolder(folder, lock, resumed=True)
            if state["identity"] != identity and state["command"] == command:
                print(f"not going on with {folder}: conf/, the data or the code has changed since", flush=True)
        folder, number = path, 2
        while folder.exists():
            if given and any(folder.iterdir()):
                raise UserError(
                    f"hydra.sweep.dir = {path} holds another sweep, or the same one, finished or running: "
                    "name another folder, or leave the setting out"
                )
            if given:
                break
            folder, number = path.with_name(f"{path.name}-{number}"), number + 1
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / STATE, {"identity": identity, "command": command, "finished": False})
        return SweepFolder(folder, _try_lock(folder), resumed=False)


def _state(folder: Path) -> dict[str, Any]:
    file = folder / STATE
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _try_lock(folder: Path) -> FileLock | None:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock
