"""Which learning rates a range test speaks for: rules on the curve of loss against a rising rate.

Source: L. N. Smith, "Cyclical learning rates for training neural networks", WACV 2017 (arXiv 1506.01186), section 3.3:
the bounds are where learning starts and where it "slows, becomes ragged, or starts to fall". The rules here say how
much that is, and keep a factor of two away from the edge where that leaves a decade: Y. Bengio, "Practical
recommendations for gradient-based training of deep architectures", 2012 (arXiv 1206.5533), section 3.1.1, finds the
best rate within a factor of two of the largest that does not diverge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

BANDWIDTH = 0.15  # decades of rate: standard deviation of the smoothing weights
CAP = 2.0  # times the first loss: beyond it a loss says "diverged" and how far does not matter
LEARNED = 1 / 3  # of the greatest fall: from there on a rate counts as one that learns
MARGIN = 2.0  # between the range and the rate that diverges
NARROWEST = 10.0  # high / low where there is room: the edge moves by more from seed to seed than the start of learning
FAINT = 0.01  # of the first loss: a fall of less is none
CLEAR = 5.0  # standard errors that a fall must measure; of 1000 flat losses that only scatter 3 seem to fall so far
ABOVE_CHANCE = 0.1  # nats: a model at most so far above chance has learnt how frequent the labels are
BLOWN_UP = 1.5  # times the first loss, on average over the last half decade


@dataclass(frozen=True)
class Range:
    """What a range test shows. Rates are None where it does not show them.

    Attributes:
        low, high: the suggested range; both or neither.
        lowest: where the smoothed loss is lowest before it diverges.
        diverges: where the smoothed loss is back at its start, or a loss no longer a number.
        reason: why there is no range, "" if there is one.
    """

    low: float | None = None
    high: float | None = None
    lowest: float | None = None
    diverges: float | None = None
    reason: str = ""


def find_range(rates: np.ndarray, losses: np.ndarray, start: float, chance: float) -> Range:
    """Read the range off a ramp.

    `low` is where the smoothed loss has fallen by LEARNED of its greatest fall; `high` is the diverging rate over
    MARGIN, or if that is less than NARROWEST times `low`, this much, but no more than the diverging rate.

    Where labels are rare, a model begins far above chance and one that has lost all it learnt does not come back up to
    there: if the smoothed loss has come within ABOVE_CHANCE of chance, it diverges where it leaves that again.

    Args:
        rates: rising, equally far apart on a log scale.
        losses: after the step at each rate, on the same examples; the last may be NaN.
        start: the loss before the first step.
        chance: loss of always giving the frequencies of the same examples' labels.
    """
    smoothed = smooth(rates, losses, start)
    fall = start - float(smoothed.min())
    if fall < FAINT * start:
        return Range(reason=f"the loss never falls by {FAINT:.0%}: lower lr_find.min_lr, or there is nothing to learn")
    first = int(np.argmax(smoothed <= start - LEARNED * fall))
    settled = chance + ABOVE_CHANCE
    learnt = np.flatnonzero(smoothed < settled)
    lost, since = (settled, max(first, int(learnt[0]))) if settled < start and len(learnt) else (start, first)
    back = np.flatnonzero(((smoothed >= lost) | ~np.isfinite(losses)) & (np.arange(len(rates)) > since))
    end = int(back[0]) if len(back) else len(rates)
    lowest = first + int(np.argmin(smoothed[first:end]))
    seen = Range(lowest=float(rates[lowest]), diverges=float(rates[end]) if len(back) else None)
    scatter = float(np.sqrt(np.mean((losses - smoothed)[:end] ** 2)))
    if start - smoothed[lowest] < CLEAR * scatter / math.sqrt(_effective_steps(rates)):
        return replace(seen, reason="the loss scatters more than it falls: raise lr_find.steps or loader.batch_size")
    if first == 0:
        return replace(seen, reason="the loss has fallen already at the first rate: lower lr_find.min_lr")
    if seen.diverges is None:
        return replace(seen, reason="the loss has not come back up by the last rate: raise lr_find.max_lr")
    low = float(rates[first])
    return replace(seen, low=low, high=max(seen.diverges / MARGIN, min(NARROWEST * low, seen.diverges)))


def smooth(rates: np.ndarray, losses: np.ndarray, start: float) -> np.ndarray:
    """Mean over neighbouring steps, with Gaussian weights in the logarithm of the rate; losses count up to the cap."""
    place = np.log10(rates)
    weights = np.exp(-0.5 * ((place[:, None] - place) / BANDWIDTH) ** 2)
    return weights @ _capped(losses, start) / weights.sum(axis=1)


def blown_up(rates: np.ndarray, losses: np.ndarray, start: float) -> bool:
    """Whether a ramp that has come this far has nothing more to show."""
    recent = _capped(losses, start)[rates > rates[-1] / math.sqrt(10)]
    return not np.isfinite(losses[-1]) or float(recent.mean()) > BLOWN_UP * start


def log_spaced(low: float, high: float, count: int) -> list[float]:
    """At most `count` rates from low to high, equally far apart on a log scale but for rounding to one digit."""
    return list(dict.fromkeys(float(f"{rate:.0e}") for rate in np.geomspace(low, high, count)))


def _capped(losses: np.ndarray, start: float) -> np.ndarray:
    return np.minimum(np.where(np.isfinite(losses), losses, np.inf), CAP * start)


def _effective_steps(rates: np.ndarray) -> float:
    """How many steps' worth of averaging the smoothing does, away from the ends."""
    per_decade = (len(rates) - 1) / math.log10(rates[-1] / rates[0])
    return max(1.0, 2 * math.sqrt(math.pi) * BANDWIDTH * per_decade)
