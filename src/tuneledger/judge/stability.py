"""What a learning rate does, judged by the curvature it meets and by the losses it gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LAST = 10  # losses at the end of a run by which it is judged: 160 examples at the default batch size
MARGIN = 0.1  # nats: three standard errors of such a mean where two labels stand 70 to 30


def regime(rate: float, curvature: float) -> str:
    """How gradient descent at this rate behaves near a minimum of this largest curvature.

    One iteration multiplies the distance along the sharpest direction by 1 - rate x curvature, so that descent is
    "direct" up to 1 / curvature, a "zigzag" that crosses the minimum at each iteration and still closes in up to
    2 / curvature, the stability edge, and "unstable" from there on.

    Source: Y. LeCun, L. Bottou, G. Orr, K.-R. Müller, "Efficient BackProp", in: Neural Networks: Tricks of the Trade
    (1998), section 5.
    """
    product = rate * curvature
    return "direct" if product <= 1 else "zigzag" if product < 2 else "unstable"


def chance_loss(labels: np.ndarray) -> float:
    """Mean cross-entropy in nats of always giving the labels' own frequencies as probabilities: their entropy."""
    share = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(share * np.log(share)).sum())


def ending(losses: Sequence[float]) -> tuple[float, float]:
    """Mean of the last LAST losses, and its standard error. At least two losses; not finite if one is not."""
    last = np.asarray(losses[-LAST:], dtype=float)
    with np.errstate(invalid="ignore"):
        return float(last.mean()), float(last.std(ddof=1) / np.sqrt(len(last)))


def threshold(first: float, chance: float) -> float:
    """The loss above which a short training has diverged: MARGIN above its first loss, or above chance if that is more.

    A head of equal weights begins above chance where some labels are rare, and may take longer to come down to it.
    """
    return max(first, chance) + MARGIN


def outcome(losses: Sequence[float], chance: float) -> str:
    """Whether a short training "diverged", stays at "chance", or "learns".

    It diverged if a loss is not finite, or if the mean of the last LAST losses lies above the threshold: the model
    that it began with does better, and so does one that knows only how frequent the labels are. It learns if that
    mean lies below chance by more than two of its standard errors, and is "chance" in between.

    Args:
        losses: of each step, at least two or one that is not finite.
        chance: see `chance_loss`.
    """
    if not np.isfinite(losses).all():
        return "diverged"
    mean, error = ending(losses)
    if mean > threshold(losses[0], chance):
        return "diverged"
    return "learns" if mean < chance - 2 * error else "chance"
