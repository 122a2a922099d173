"""Does a confidence of 0.8 come true in 80 of 100 rows?"""

from __future__ import annotations

import numpy as np
import pandas as pd

BINS = 15


def bin_of(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Index of the equal-width bin [low, high) over [0, 1] of each confidence; 1.0 is in the last."""
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)


def gaps(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Confidence minus correctness of each row, in the column of its bin: shape (rows, bins), else 0.

    The expected calibration error is the sum over bins of the absolute column means.
    """
    table = np.zeros((len(confidence), bins))
    table[np.arange(len(confidence)), bin_of(confidence, bins)] = confidence - correct
    return table


def calibration(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """The reliability diagram as a table, bins without rows left out.

    Source: C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On calibration of modern neural networks", ICML 2017.

    Args:
        confidence: probability of the predicted label, shape (rows,).
        correct: whether the prediction is right, shape (rows,).

    Returns:
        bin_low, bin_high, rows, confidence (mean), accuracy: one line per bin.
    """
    edges = np.linspace(0, 1, bins + 1)
    frame = pd.DataFrame(
        {
            "bin": bin_of(confidence, bins),
            "confidence": confidence,
            "accuracy": np.asarray(correct, dtype=float),
        }
    )
    table = frame.groupby("bin").agg(
        rows=("accuracy", "size"), confidence=("confidence", "mean"), accuracy=("accuracy", "mean")
    )
    table.insert(0, "bin_low", edges[table.index])
    table.insert(1, "bin_high", edges[table.index + 1])
    return table.reset_index(drop=True)
