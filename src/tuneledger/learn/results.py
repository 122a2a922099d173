"""A finished training as files: the record in results/train and the model folder."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

from tuneledger.learn.fit import Fit
from tuneledger.learn.history import Row
from tuneledger.paths import replacing, write_json, write_text


def write_results(folder: Path, fit: Fit, cost: dict[str, Any], select: dict[str, str], baseline: float) -> None:
    """Write steps.csv, epochs.csv, metrics.json and cost.json.

    Args:
        folder: results/train.
        cost: what `ledger.measure.training_cost` gives, with the hardware.
        select: {metric, mode} by which the kept epoch was chosen.
        baseline: accuracy of always answering the validation split's most frequent label.
    """
    best = fit.epochs[fit.best_epoch - 1]
    _write_csv(folder / "steps.csv", fit.steps)
    _write_csv(folder / "epochs.csv", fit.epochs)
    metrics = {
        "best_epoch": fit.best_epoch,
        "selected_by": f"{select['metric']} ({select['mode']})",
        "epochs": len(fit.epochs),
        "steps": len(fit.steps),
        "majority_baseline": baseline,
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


def _write_csv(path: Path, rows: list[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
