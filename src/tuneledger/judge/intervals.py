"""Intervals: how far a score on this many rows can be trusted. Imports no torch."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

CONFIDENCE = 0.95
RESAMPLES = 2000
_DRAWS_AT_ONCE = 1 << 22  # bounds memory: resamples x rows held at a time, about 64 MiB


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Score interval of a proportion, such as accuracy; keeps its coverage for few rows and near 0 or 1.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
    (1927), 209-212; computed by SciPy.

    Args:
        successes: 0..n.
        n: rows, at least 1.
        confidence: coverage, within (0, 1).
    """
    interval = binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_means(
    columns: dict[str, np.ndarray], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
    """Column means of `resamples` samples of the rows, drawn with replacement; all columns share the draws.

    A score that is a function of column means (F1 is one: of how often a label is predicted, is actual, is
    both) gets its distribution from one matrix product instead of a loop over resamples.

    Source: B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979), 1-26.

    Args:
        columns: name -> values, shape (rows,) or (rows, k).

    Returns:
        name -> means, shape (resamples,) or (resamples, k). Equal seeds give equal draws.
    """
    shapes = {name: np.shape(values)[1:] for name, values in columns.items()}
    table = np.column_stack([np.asarray(values, dtype=float) for values in columns.values()])
    means = np.concatenate([weights @ table for weights in _weights(len(table), resamples, seed)])
    widths = [int(np.prod(shape)) for shape in shapes.values()]
    parts = np.split(means, np.cumsum(widths)[:-1], axis=1)
    return {name: part.reshape(-1, *shapes[name]) for name, part in zip(columns, parts, strict=True)}


def percentile(values: np.ndarray, estimate: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Percentile interval of bootstrap `values`, widened where needed to hold the estimate itself.

    Widening matters for calibration error only: resampling adds noise to a sum of absolute gaps, which can
    only grow by it, so that all resamples of a well calibrated model may lie above its own figure.

    Source: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(min(low, estimate)), float(max(high, estimate))


def _weights(rows: int, resamples: int, seed: int):
    """Share of each row in each resample, in chunks of shape (some resamples, rows)."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _DRAWS_AT_ONCE // rows)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.integers(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows) / rows
