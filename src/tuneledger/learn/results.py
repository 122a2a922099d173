"""A finished training as files: the record in results/train and the model folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tuneledger.learn.datamodule import Batches
from tuneledger.learn.fit import Fit
from tuneledger.learn.validation import write_validation
from tuneledger.paths import replacing, write_csv, write_json


def write_results(
    folder: Path, fit: Fit, cost: dict[str, Any], select: dict[str, str], batches: Batches, checkpoints: Path
) -> None:
    """Write steps.csv, epochs.csv, validation.npz, metrics.json and cost.json.

    Args:
        folder: results/train.
        cost: what `ledger.measure.training_cost` gives, with the hardware.
        select: {metric, mode} by which the kept epoch was chosen.
        batches: with the validation split.
        checkpoints: the run's checkpoint folder.
    """
    best = fit.epochs[fit.best_epoch - 1]
    write_csv(folder / "steps.csv", fit.steps)
    write_csv(folder / "epochs.csv", fit.epochs)
    write_validation(folder / "validation.npz", checkpoints, batches.validation.labels, len(fit.epochs))
    metrics = {
        "best_epoch": fit.best_epoch,
        "selected_by": f"{select['metric']} ({select['mode']})",
        "epochs": len(fit.epochs),
        "steps": len(fit.steps),
        "majority_baseline": batches.majority()[1],
        **{name: value for name, value in best.items() if name not in ("epoch", "step")},
    }
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "cost.json", cost)


def write_model(best: Path, tokenizer: Path, target: Path) -> None:
    """Put the kept epoch's model and the tokenizer together as one Hugging Face folder."""
    with replacing(target) as folder:
        shutil.copytree(best, folder)
        for file in tokenizer.iterdir():
            shutil.copy2(file, folder / file.name)
