"""The report's pictures, each a table in and one <svg> element out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from tuneledger.judge.intervals import wilson
from tuneledger.show.svg import BLUE, INK, MUTED, ORANGE, drawing, house_style, legend_above, markup
from tuneledger.show.tables import clip

POINTS = 300  # of a curve: more are not seen at this size
LABELS = 12  # in a confusion matrix: more are not readable
SLICES = 40  # in the slice picture; the table has all
LONGEST = 22  # characters of a label or value beside an axis


def loss_curves(steps: pd.DataFrame, epochs: pd.DataFrame) -> str:
    """Training loss at each logged step with its running mean, and validation loss at each epoch's end.

    Args:
        steps: step, loss.
        epochs: step, val_loss.
    """
    with house_style():
        figure, (axes,) = drawing(2.7)
        thin = _thinned(steps)
        smooth = thin["loss"].rolling(max(3, len(thin) // 15), min_periods=1, center=True).mean()
        axes.plot(thin["step"], thin["loss"], color=BLUE, linewidth=0.7, alpha=0.35)
        axes.plot(thin["step"], smooth, color=BLUE, linewidth=1.7, label="training, running mean")
        axes.plot(
            epochs["step"], epochs["val_loss"], color=ORANGE, linewidth=1.7, marker="o", markersize=4.5,
            label="validation",
        )  # fmt: skip
        axes.set(xlabel="step", ylabel="cross-entropy (nats)", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        legend_above(axes, 2)
        return markup(figure, "loss", "Training and validation loss over the optimiser steps")


def score_curves(epochs: pd.DataFrame, baseline: float, best_epoch: int) -> str:
    """Validation accuracy with its interval, and F1, at each epoch, above the majority baseline.

    Args:
        epochs: epoch, accuracy, accuracy_low, accuracy_high, f1.
        baseline: accuracy of always answering the most frequent label.
        best_epoch: the epoch whose weights were kept.
    """
    with house_style():
        figure, (axes,) = drawing(2.7)
        x = epochs["epoch"]
        axes.axvline(best_epoch, color=MUTED, linewidth=7, alpha=0.15)
        axes.axhline(baseline, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="majority")
        axes.vlines(x, epochs["accuracy_low"], epochs["accuracy_high"], color=BLUE, linewidth=1.2)
        axes.plot(x, epochs["accuracy"], color=BLUE, linewidth=1.7, marker="o", markersize=4.5, label="accuracy")
        axes.plot(x, epochs["f1"], color=ORANGE, linewidth=1.7, marker="s", markersize=4, label="F1")
        axes.set(xlabel="epoch", xlim=(x.min() - 0.4, x.max() + 0.4))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        legend_above(axes, 3)
        return markup(figure, "scores", "Validation accuracy and F1 after each epoch")


def confusion_matrix(confusion: pd.DataFrame, labels: list[str]) -> str:
    """How rows of each actual label (down) were predicted (across); shade is the share of the row.

    Args:
        confusion: actual, predicted: label names, one line per example.
        labels: in the task's order; of many, the most frequent ones are drawn.
    """
    shown = _shown_labels(confusion, labels)
    counts = pd.crosstab(confusion["actual"], confusion["predicted"]).reindex(index=shown, columns=shown, fill_value=0)
    totals = confusion["actual"].value_counts().reindex(shown, fill_value=0)
    size = len(shown)
    with house_style():
        figure, (axes,) = drawing(0.9 + max(2.0, 0.34 * size))
        for row, column in np.ndindex(size, size):
            share = counts.iat[row, column] / max(totals.iat[row], 1)
            axes.add_patch(_cell(column, row, share))
            text = f"{counts.iat[row, column]}\n{share:.0%}" if size <= 5 else f"{counts.iat[row, column]}"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=INK)
        names = [clip(name, LONGEST) for name in shown]
        rotation = 0 if size <= 3 else 45
        axes.set_xticks(range(size), names, rotation=rotation, ha="center" if not rotation else "right")
        axes.set_yticks(range(size), names)
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="predicted", ylabel="actual")
        axes.spines[:].set_visible(False)
        axes.grid(False)
        return markup(figure, "confusion", "Confusion matrix: actual labels down, predicted labels across")


def reliability(calibration: pd.DataFrame) -> str:
    """Accuracy of the rows of each confidence bin with a 95 % interval, over how many rows the bin has.

    Args:
        calibration: bin_low, bin_high, rows, confidence, accuracy.
    """
    with house_style():
        figure, (axes, below) = drawing(3.3, rows=2, ratios=[3, 1])
        confidence, accuracy, rows = calibration["confidence"], calibration["accuracy"], calibration["rows"]
        bounds = [wilson(round(a * n), n) for a, n in zip(accuracy, rows, strict=True)]
        left = calibration["bin_low"].min()
        axes.plot([left, 1], [left, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfect")
        axes.vlines(confidence, *zip(*bounds, strict=True), color=BLUE, linewidth=1.2)
        axes.plot(confidence, accuracy, color=BLUE, linewidth=1.7, marker="o", markersize=4.5, label="model")
        axes.set(ylabel="accuracy", ylim=(0, 1.04))
        legend_above(axes, 2)
        width = calibration["bin_high"] - calibration["bin_low"]
        below.bar(calibration["bin_low"], rows, width, align="edge", color=BLUE, alpha=0.45, linewidth=0)
        below.set(xlabel="confidence", ylabel="rows", xlim=(left, 1))
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        return markup(figure, "calibration", "Accuracy against confidence, with the number of rows below")


def slice_accuracy(slices: pd.DataFrame, overall: float) -> str:
    """Accuracy of each slice with its interval; a bar marks the slice's own majority baseline.

    Args:
        slices: column, value, rows, accuracy, accuracy_low, accuracy_high, majority_baseline.
        overall: accuracy on all rows.
    """
    shown = slices.head(SLICES).reset_index(drop=True)
    # A blank line before each further column sets the groups apart.
    y = shown.index + (shown["column"] != shown["column"].shift()).cumsum() - 1
    with house_style():
        figure, (axes,) = drawing(0.8 + 0.23 * (y.max() + 1))
        axes.axvline(overall, color=BLUE, linewidth=1, alpha=0.5, label="all rows")
        axes.hlines(y, shown["accuracy_low"], shown["accuracy_high"], color=BLUE, linewidth=1.4)
        axes.plot(shown["accuracy"], y, "o", color=BLUE, markersize=5, label="slice")
        own = shown["majority_baseline"].where(shown["majority_baseline"] < 1)  # of a single label it says nothing
        axes.plot(own, y, "|", color=ORANGE, markersize=9, markeredgewidth=1.8, label="majority")
        axes.set_yticks(y, [f"{clip(line.value, LONGEST)}  ({line.rows})" for line in shown.itertuples()])
        axes.set(ylim=(y.max() + 0.7, -0.7), xlim=(0, 1.03), xlabel="accuracy")
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        legend_above(axes, 3)
        return markup(figure, "slices", "Accuracy on each slice of the data with its 95 % interval")


def _cell(column: int, row: int, share: float) -> Rectangle:
    # At most 0.6, so that the number on it stays readable on light and on dark paper.
    return Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, facecolor=BLUE, alpha=0.04 + 0.56 * share, linewidth=0)


def _shown_labels(confusion: pd.DataFrame, labels: list[str]) -> list[str]:
    if len(labels) <= LABELS:
        return labels
    frequent = set(confusion["actual"].value_counts().index[:LABELS])
    return [name for name in labels if name in frequent]


def _thinned(steps: pd.DataFrame) -> pd.DataFrame:
    """At most POINTS lines, each the mean of a run of steps."""
    if len(steps) <= POINTS:
        return steps
    group = np.arange(len(steps)) * POINTS // len(steps)
    return steps[["step", "loss"]].groupby(group).mean()
