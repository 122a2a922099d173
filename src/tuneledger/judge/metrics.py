"""Scores of a classifier from its logits, each with a 95 % interval.

F1, precision and recall are those of label 1 where there are two labels, and the unweighted mean over the
labels that occur (as actual or as predicted) where there are more: what torchmetrics calls binary and macro.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from tuneledger.judge.calibration import gaps
from tuneledger.judge.intervals import bootstrap_means, percentile, wilson

NAMES = ("loss", "accuracy", "f1", "precision", "recall", "ece", "brier")


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the labels in float64, shape (rows, labels)."""
    return np.exp(log_softmax(np.asarray(logits, dtype=np.float64), axis=1))


def majority_baseline(label: np.ndarray) -> float:
    """Accuracy of always answering the most frequent label."""
    return float(np.bincount(label).max() / len(label))


def label_scores(label: np.ndarray, predicted: np.ndarray, labels: int) -> dict[str, float]:
    """accuracy, f1, precision and recall of predicted label indices; 0 where a ratio is 0/0.

    Args:
        label, predicted: indices, shape (rows,).
        labels: how many labels the task has, whether or not all occur here.
    """
    average = "binary" if labels == 2 else "macro"
    return {
        "accuracy": float(accuracy_score(label, predicted)),
        "f1": float(f1_score(label, predicted, average=average, zero_division=0)),
        "precision": float(precision_score(label, predicted, average=average, zero_division=0)),
        "recall": float(recall_score(label, predicted, average=average, zero_division=0)),
    }


def scores(label: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Every name of NAMES, with `<name>_low` and `<name>_high`, and majority_baseline.

    loss: mean cross-entropy in nats. ece: expected calibration error of the predicted label over 15 bins.
    brier: mean squared error of the probabilities, in [0, 1] for two labels and [0, 2] for more.
    Accuracy has a Wilson interval, the others percentile bootstrap intervals with a fixed seed.

    Args:
        label: indices, shape (rows,).
        logits: shape (rows, labels), two labels or more.
    """
    columns = _columns(label, logits)
    predicted = logits.argmax(axis=1)
    whole = {name: values.mean(axis=0, keepdims=True) for name, values in columns.items()}
    values = {name: float(value[0]) for name, value in _from_means(whole).items()}
    values |= label_scores(label, predicted, logits.shape[1])
    resampled = _from_means(bootstrap_means(columns))
    result = {"majority_baseline": majority_baseline(label)}
    for name in NAMES:
        if name == "accuracy":
            low, high = wilson((label == predicted).sum(), len(label))
        else:
            low, high = percentile(resampled[name], values[name])
        result |= {name: values[name], f"{name}_low": low, f"{name}_high": high}
    return result


def _columns(label: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Per-row values of which every score but accuracy is a function of the means."""
    labels = logits.shape[1]
    log_probability = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    probability = np.exp(log_probability)
    actual, predicted = np.eye(labels)[label], np.eye(labels)[logits.argmax(axis=1)]
    scale = 0.5 if labels == 2 else 1.0  # with two labels the squared error counts once, as Brier had it
    return {
        "loss": -log_probability[np.arange(len(label)), label],
        "brier": scale * ((probability - actual) ** 2).sum(axis=1),
        "gap": gaps(probability.max(axis=1), logits.argmax(axis=1) == label),
        "hit": actual * predicted,
        "actual": actual,
        "predicted": predicted,
    }


def _from_means(means: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores of each resample, shape (resamples,), from its column means, one line per resample."""
    hit, actual, predicted = means["hit"], means["actual"], means["predicted"]
    return {
        "loss": means["loss"],
        "brier": means["brier"],
        "ece": np.abs(means["gap"]).sum(axis=1),
        "f1": _over_labels(2 * hit, actual + predicted, actual + predicted),
        "precision": _over_labels(hit, predicted, actual + predicted),
        "recall": _over_labels(hit, actual, actual + predicted),
    }


def _over_labels(part: np.ndarray, whole: np.ndarray, occurs: np.ndarray) -> np.ndarray:
    ratio = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    if ratio.shape[1] == 2:
        return ratio[:, 1]
    return ratio.sum(axis=1) / (occurs > 0).sum(axis=1)
