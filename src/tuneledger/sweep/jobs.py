"""A sweep's folder as values for its page."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tuneledger.conf import bind
from tuneledger.ledger.price import price
from tuneledger.paths import TRAIN_RESULTS, code_root
from tuneledger.show.sections import price_text
from tuneledger.show.sweep import SweepResults, Trial
from tuneledger.sweep.folder import STATE
from tuneledger.sweep.space import Space
from tuneledger.sweep.trial import CHECKPOINT, OVERRIDES, RUN_ID, outcome, overrides

EPOCHS = ["epoch", "step", "train_loss", "val_loss", "accuracy", "accuracy_low", "accuracy_high", "f1"]
SCORES = ("val_loss", "accuracy", "accuracy_low", "accuracy_high", "f1", "best_epoch")


def read_sweep(folder: Path, settings: dict[str, Any], space: Space, planned: int) -> SweepResults:
    """What the trials of a sweep have recorded so far.

    Args:
        settings: of the sweep, without what its trials change.
        planned: number of trials.
    """
    jobs = [file.parents[1] for file in folder.glob(f"[0-9]*/{OVERRIDES}")]
    jobs.sort(key=lambda job: int(job.name))
    costs = [cost for job in jobs if (cost := _json(job / TRAIN_RESULTS / "cost.json"))]
    hardware = costs[0]["hardware"] if costs else {}  # of a trial that failed there is no record of its own
    trials = [read_trial(job, space.swept, settings["cost"], hardware) for job in jobs]
    select = settings["trainer"]["select"]
    metric, mode = ("val_loss", "min") if select["metric"] == "epoch" else (select["metric"], select["mode"])
    per_epoch = [trial.epochs["step"].iloc[-1] / len(trial.epochs) for trial in trials if len(trial.epochs)]
    whole = settings["trainer"]["max_epochs"] * (sum(per_epoch) / len(per_epoch) if per_epoch else 0)
    metrics = [found for job in jobs if (found := _json(job / TRAIN_RESULTS / "metrics.json"))]
    card = price(0, hardware, **bind(price, "cost", settings["cost"]))
    name = str(folder.relative_to(code_root()) if folder.is_relative_to(code_root()) else folder)
    return SweepResults(
        name=name,
        command=_json(folder / STATE)["command"],
        metric=metric,
        mode=mode,
        trials=trials,
        majority_baseline=metrics[0]["majority_baseline"] if metrics else math.nan,
        planned_steps=round(whole * planned),
        price_text=price_text(card),
        promote=f"python -m tuneledger.sweep.promote {shlex.quote(name)}",
    )


def read_trial(job: Path, swept: list[str], cost: dict[str, Any], hardware: dict[str, Any]) -> Trial:
    """One trial's folder.

    Args:
        swept: keys, as in `Space`.
        cost: the section of that name.
        hardware: for a trial that has no record of its own.
    """
    values = dict(override.partition("=")[::2] for override in overrides(job))
    known = outcome(job)
    results = job / TRAIN_RESULTS
    finished = known.get("outcome") == "finished"
    epochs = pd.read_csv(results / "epochs.csv") if (results / "epochs.csv").exists() else pd.DataFrame(columns=EPOCHS)
    scores = _json(results / "metrics.json") if finished else {}
    seconds = known.get("seconds", 0.0)
    hardware = _json(results / "cost.json").get("hardware", hardware)
    kind = known.get("outcome", "unfinished")
    return Trial(
        number=int(job.name),
        overrides={key.lstrip("+"): values.get(key, "") for key in swept},
        outcome="unfinished" if kind == "paused" else kind,
        reason=known.get("reason") or ("" if finished else "not finished"),
        epochs=epochs,
        scores={name: scores[name] for name in SCORES} if finished else {},
        steps=known.get("steps", 0),
        seconds=seconds,
        usd=price(seconds, hardware, **bind(price, "cost", cost))["usd"],
        correct=right_or_wrong(results / "validation.npz", scores["best_epoch"]) if finished else None,
        run_id=run_id(job),
    )


def right_or_wrong(file: Path, epoch: int) -> np.ndarray:
    """Which validation rows the model got right after an epoch, bool (rows,)."""
    with np.load(file, allow_pickle=False) as arrays:
        return arrays["logits"][epoch - 1].argmax(axis=1) == arrays["labels"]


def run_id(job: Path) -> str | None:
    """The trial's run in MLflow, None without one."""
    file = job / CHECKPOINT / RUN_ID
    return file.read_text(encoding="utf-8").strip() if file.exists() else None


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
