"""The values a report is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Results:
    """What the report is made of: the contents of results/, and where they come from.

    Args:
        params: section.key -> value of every setting that bears on the results.
        audit: results/prepare/audit.json.
        epochs, steps, train, train_cost: results/train.
        metrics, evaluate_cost, slices, confusion, calibration, predictions: results/eval.
        price: what `ledger.price.price` gave.
        commit: hash of the code's commit, None outside git.
        dirty: whether code, settings or raw data differ from that commit.
        overrides: `-S` arguments that lead from conf/ to these settings.
        run_id: of the MLflow run, None without one.
    """

    params: dict[str, Any]
    audit: dict[str, Any]
    epochs: pd.DataFrame
    steps: pd.DataFrame
    train: dict[str, Any]
    train_cost: dict[str, Any]
    metrics: dict[str, Any]
    evaluate_cost: dict[str, Any]
    slices: pd.DataFrame
    confusion: pd.DataFrame
    calibration: pd.DataFrame
    predictions: pd.DataFrame
    price: dict[str, Any]
    commit: str | None
    dirty: bool
    overrides: list[str]
    run_id: str | None
