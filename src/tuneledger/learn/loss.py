"""What training minimises."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from tuneledger.errors import UserError

IGNORED = torch.nn.CrossEntropyLoss().ignore_index  # the label of an example that is only there to fill up a batch


def check_loss(*, label_smoothing: float, r_drop: float) -> None:
    """Raise UserError for a setting out of its range, under its full key."""
    if not 0 <= label_smoothing < 1:
        raise UserError(f"loss.label_smoothing = {label_smoothing}: give a share from 0 to below 1")
    if not (math.isfinite(r_drop) and r_drop >= 0):
        raise UserError(f"loss.r_drop = {r_drop}: give 0 or a positive weight, such as 1")


def passes(r_drop: float) -> int:
    """How often the model looks at each training example in a step."""
    return 2 if r_drop else 1


def summed_loss(logits: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float, r_drop: float) -> torch.Tensor:
    """The loss summed over examples: cross-entropy, and with `r_drop` how far two passes disagree.

    R-Drop adds the mean of the two Kullback-Leibler divergences between both passes' distributions to the mean of
    their cross-entropies (Liang et al. 2021, arXiv 2106.14448, section 2.1, whose sum is twice this and whose alpha is
    therefore twice `r_drop`).

    Args:
        logits: (passes * rows, labels), one pass after the other.
        labels: (rows,), IGNORED for what does not count.
        label_smoothing, r_drop: see conf/loss.
    """
    count = len(logits) // len(labels)
    total = cross_entropy(logits, labels.repeat(count), reduction="sum", label_smoothing=label_smoothing) / count
    if not r_drop or count == 1:
        return total
    first, second = log_softmax(logits[labels.repeat(2) != IGNORED], dim=-1).chunk(2)
    apart = kl_div(first, second, reduction="sum", log_target=True)
    apart = apart + kl_div(second, first, reduction="sum", log_target=True)
    return total + r_drop * apart / 2
