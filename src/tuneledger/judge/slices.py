"""Scores on the parts of the data: where is the model better or worse than overall?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from tuneledger.judge.intervals import wilson
from tuneledger.judge.metrics import label_scores, majority_baseline

COLUMNS = ("column", "value", "rows", "accuracy", "accuracy_low", "accuracy_high", "f1", "majority_baseline")
MISSING = "(none)"


def slices(frame: pd.DataFrame, predicted: np.ndarray, columns: list[str], labels: int) -> pd.DataFrame:
    """One line per value of each column, in the columns' order and then by value.

    Of two labels, F1 is left empty for a part without a positive row, where there is nothing to find.
    Many slices mean many intervals: one in twenty misses its true value by chance alone.

    Args:
        frame: prepared rows with `label` (index) and the slice columns.
        predicted: label indices, shape (rows,), in the frame's order.
        labels: how many labels the task has.
    """
    lines = []
    for column in columns:
        values = frame[column].astype(object).where(frame[column].notna(), MISSING).to_numpy()
        for value in sorted(set(values)):
            here = values == value
            line = _line(frame["label"].to_numpy()[here], predicted[here], labels)
            lines.append({"column": column, "value": value, **line})
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _line(label: np.ndarray, predicted: np.ndarray, labels: int) -> dict[str, float]:
    scores = label_scores(label, predicted, labels)
    low, high = wilson((label == predicted).sum(), len(label))
    defined = labels > 2 or bool((label == 1).any())
    return {
        "rows": len(label),
        "accuracy": scores["accuracy"],
        "accuracy_low": low,
        "accuracy_high": high,
        "f1": scores["f1"] if defined else np.nan,
        "majority_baseline": majority_baseline(label),
    }
