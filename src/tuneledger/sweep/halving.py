"""Successive halving: all trials train a little, the better share trains on, and so forth.

Jamieson and Talwalkar 2016 (arXiv 1502.07943); a new generation is held against all earlier ones at the same rung,
as in its asynchronous form (Li et al. 2020, arXiv 1810.05934). Epochs double from rung to rung, whatever the share
that goes on: fine-tuning takes so few that a larger step would leave a single comparison.
"""

from __future__ import annotations

import math


def rungs(max_epochs: int, *, min_epochs: int) -> list[int]:
    """Epochs after which trials are compared, and the last one: 1, 2, 4 and so on below max_epochs, then max_epochs."""
    found, epochs = [], min_epochs
    while epochs < max_epochs:
        found.append(epochs)
        epochs *= 2
    return [*found, max_epochs]


def places(reached: int, reduction_factor: int) -> int:
    """How many of the trials that reached a rung may go on from it: one in `reduction_factor`, but never none."""
    return max(1, reached // reduction_factor)


def survivors(values: dict[int, float], generation: list[int], reduction_factor: int) -> list[int]:
    """Trials of a generation that go on from a rung.

    Args:
        values: trial number -> validation loss, of all trials that ever reached this rung; infinity for diverged.
        generation: numbers of the trials to decide on.
        reduction_factor: one in so many goes on.

    Returns:
        those among the best `places` of all values, lowest loss first, earlier one of equals.
    """
    best = sorted(values, key=lambda number: (values[number], number))[: places(len(values), reduction_factor)]
    return [number for number in best if number in generation and math.isfinite(values[number])]
