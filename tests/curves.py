"""Made-up learning-rate range tests: what a ramp gives, of known shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tuneledger.judge.lr_range import find_range, smooth
from tuneledger.show.lr_find import RangeTest

START = 0.7
CHANCE = 0.69  # of two labels, about as frequent as each other


def rates(steps: int = 80, low: float = 1e-7, high: float = 1.0) -> np.ndarray:
    return np.geomspace(low, high, steps)


def valley(at: np.ndarray, *, learns: float = 1e-5, lowest: float = 3e-4, depth: float = 0.1) -> np.ndarray:
    """Losses that stay at START up to the rate `learns`, fall by `depth` up to `lowest`, and then rise as steeply.

    Straight lines over the logarithm of the rate: they are back at START at lowest ** 2 / learns.
    """
    place, first, bottom = np.log10(at), np.log10(learns), np.log10(lowest)
    slope = depth / (bottom - first)
    return START - np.where(place < first, 0.0, depth - slope * np.abs(place - bottom))


def range_test(losses: np.ndarray | None = None, **changes: Any) -> RangeTest:
    """What the page shows, of a valley or of the losses given."""
    at = rates(80 if losses is None else len(losses))
    losses = valley(at) if losses is None else losses
    scatter = np.random.default_rng(0).normal(0, 0.05, len(at))
    columns = {"step": range(1, len(at) + 1), "lr": at, "batch_loss": losses + scatter, "loss": losses}
    found = find_range(at, losses, START, CHANCE)
    values = {
        "curve": pd.DataFrame(columns | {"smoothed": smooth(at, losses, START)}),
        "model": "a model",
        "data": "twins",
        "seed": 7,
        "batch_size": 16,
        "judging_rows": 32,
        "min_lr": 1e-7,
        "max_lr": 1.0,
        "steps": 80,
        "start": START,
        "chance": CHANCE,
        **vars(found),
        "command": "python -m tuneledger.stages.train --multirun optim.lr=1e-5,3e-5" if found.low else "",
    }
    return RangeTest(**{**values, **changes})
