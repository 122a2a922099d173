"""One job of a sweep: run once, and recorded however it ends.

A trial's folder holds outcome.json beside results/train, its checkpoint while it may go on, and its MLflow run's id.
A trial that is recorded as ended is never run again.
"""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import OmegaConf

from tuneledger.errors import Diverged, Interrupted, UserError
from tuneledger.paths import TRAIN_RESULTS, remove, write_csv, write_json

OUTCOME = "outcome.json"
OVERRIDES = ".hydra/overrides.yaml"  # Hydra writes it once the job has started
CHECKPOINT = "checkpoint"
RUN_ID = "mlflow_run_id"  # a file in the checkpoint folder, see `ledger.tracker.Tracker.start`
UNTIL_EPOCH = "+until_epoch="  # the override by which a search pauses a trial
ENDED = ("finished", "pruned", "diverged", "failed")  # beside "paused", which goes on later


def outcome(folder: Path) -> dict[str, Any]:
    """What is recorded of a trial: outcome, reason, epochs, steps, seconds, val_loss; {} if nothing."""
    file = folder / OUTCOME
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def overrides(folder: Path) -> list[str]:
    """What a trial was launched with, as typed, less where it was to pause."""
    found = OmegaConf.to_container(OmegaConf.load(folder / OVERRIDES), resolve=False)
    return [text for text in found if not text.startswith(UNTIL_EPOCH)]


def record(folder: Path, kind: str, reason: str = "", **figures: float | None) -> dict[str, Any]:
    """Write or update a trial's outcome; gives it."""
    known = {**outcome(folder), "outcome": kind, "reason": " ".join(reason.split()), **figures}
    write_json(folder / OUTCOME, known)
    return known


def drop_checkpoint(folder: Path) -> None:
    """Remove what a trial that ended does not need any more."""
    for path in (folder / CHECKPOINT).glob("*"):
        if path.name != RUN_ID:
            remove(path)


def run_trial(folder: Path, train: Callable[[], Any], until_epoch: int | None) -> float:
    """Train unless that is done, and record how it ended.

    Args:
        folder: the job's.
        train: gives `learn.fit.Fit`.
        until_epoch: where it is to pause, None to go to the end.

    Returns:
        the lowest validation loss so far; infinity for a training that diverged.

    Raises:
        UserError: it failed, now or earlier. So does whatever else `train` raises; of this an Interrupted, an OSError
            and a MemoryError say nothing of the settings and leave the trial to be gone on with.
    """
    # The job of an earlier sweep that was killed may still be at it, on a cluster above all.
    with FileLock(folder / ".lock"):
        known = outcome(folder)
        if known.get("outcome") in ENDED or (until_epoch and known.get("epochs", 0) >= until_epoch):
            print(f"{folder.name}: {known['outcome']} already", flush=True)
        else:
            known = _train(folder, train, known)
        if known["outcome"] in ENDED:
            drop_checkpoint(folder)
    if known["outcome"] == "failed":
        raise UserError(known["reason"])
    return math.inf if known["val_loss"] is None else known["val_loss"]


def _train(folder: Path, train: Callable[[], Any], known: dict[str, Any]) -> dict[str, Any]:
    """Train, and record how it ended; gives the record."""
    start = time.perf_counter() - known.get("seconds", 0)
    try:
        fit = train()
    except (Interrupted, OSError, MemoryError):
        raise
    except Diverged as error:
        if error.epochs:
            write_csv(folder / TRAIN_RESULTS / "epochs.csv", error.epochs)
        figures = {"epochs": len(error.epochs), "steps": error.steps, "seconds": time.perf_counter() - start}
        return record(folder, "diverged", str(error), val_loss=None, **figures)
    except Exception as error:
        figures = {"epochs": known.get("epochs", 0), "steps": known.get("steps", 0)}
        reason, seconds = str(error) or type(error).__name__, time.perf_counter() - start
        record(folder, "failed", reason, seconds=seconds, val_loss=None, **figures)
        traceback.clear_frames(error.__traceback__)  # Hydra keeps the error to the sweep's end, and they the tensors
        raise
    val_loss = min(row["val_loss"] for row in fit.epochs)
    seconds = fit.totals["train_seconds"] + fit.totals["validation_seconds"]
    figures = {"epochs": len(fit.epochs), "steps": len(fit.steps), "seconds": seconds, "val_loss": val_loss}
    known = record(folder, "finished" if fit.ended else "paused", **figures)
    if fit.late_signal:
        raise Interrupted(fit.late_signal)
    return known
