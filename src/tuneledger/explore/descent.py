"""Gradient descent on a convex problem of the user's own data: a linear head on features that stay as they are.

The loss is that of multinomial logistic regression, in nats, with an L2 penalty on all weights. The penalty makes the
minimum exist and the only one: rows that a plane can part would drive the weights to infinity without it, and one
number added to all logits would change nothing. Everything is in float64; weights have the shape (columns, labels).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg, eigsh
from scipy.special import log_softmax, softmax

from tuneledger.errors import UserError
from tuneledger.judge.stability import LAST

RATES = 3  # paths that a picture can tell apart
HIGHEST = 10.0  # learning rate: the penalty alone keeps weights bounded there
ITERATIONS = 1000  # a thousand optimizer steps of an encoder are minutes for each rate
FLAT = 1e-6  # spread of a column against its size, below which float32 features hold rounding alone
SLOPE = 1e-10  # length of the gradient at what counts as the minimum
NUDGE = 1e-5  # distance from the minimum at which its curvature alone decides where descent goes
PROBE = 1000  # iterations after which a nudge has grown or shrunk; in 10000 dimensions blurs the edge by 0.3 %
PRECISION = 1e-3  # ratio left between the rates that bracket the edge


@dataclass(frozen=True)
class Problem:
    """What is minimised.

    Args:
        columns: (rows, columns), see `standardised`.
        targets: (rows, labels), 1 at each row's label, else 0.
        penalty: the loss has penalty / 2 times the sum of squared weights.
    """

    columns: np.ndarray
    targets: np.ndarray
    penalty: float

    @property
    def start(self) -> np.ndarray:
        """Weights of zero, which give every label the same probability."""
        return np.zeros((self.columns.shape[1], self.targets.shape[1]))


def check_descent(*, rates: list[float], iterations: int) -> None:
    """Raise UserError for settings that give no picture: told before any weight is loaded."""
    if not 1 <= len(rates) <= RATES or len(set(rates)) < len(rates):
        raise UserError(f"descent.rates = {rates}: give one to {RATES} different learning rates, such as [0.1, 0.01]")
    if not all(0 < rate <= HIGHEST for rate in rates):
        raise UserError(f"descent.rates = {rates}: give learning rates above 0 and at most {HIGHEST:g}")
    if not LAST <= iterations <= ITERATIONS:
        raise UserError(f"descent.iterations = {iterations}: give a whole number from {LAST} to {ITERATIONS}")


def standardised(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Features with mean 0 and standard deviation 1 on the training rows, and a last column of ones for the bias.

    Args:
        train, others: (rows, width); others are moved and scaled as train. Columns constant in train are dropped.

    Raises:
        UserError: nothing is left.
    """
    mean, spread = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    varies = spread > FLAT * np.abs(train).max(axis=0)
    if not varies.any():
        raise UserError("the encoder gives every training row the same features: choose another model")
    scaled = [(part[:, varies] - mean[varies]) / spread[varies] for part in (train, *others)]
    return [np.column_stack([part, np.ones(len(part))]) for part in scaled]


def loss(problem: Problem, weights: np.ndarray) -> float:
    logs = log_softmax(problem.columns @ weights, axis=1)
    return float(-(problem.targets * logs).sum() / len(logs) + problem.penalty / 2 * (weights**2).sum())


def gradient(problem: Problem, weights: np.ndarray) -> np.ndarray:
    missing = softmax(problem.columns @ weights, axis=1) - problem.targets
    return problem.columns.T @ missing / len(missing) + problem.penalty * weights


def hessian(problem: Problem, weights: np.ndarray) -> LinearOperator:
    """Second derivatives of the loss, as what they make of a direction, flattened."""
    probability = softmax(problem.columns @ weights, axis=1)

    def product(flat: np.ndarray) -> np.ndarray:
        direction = flat.reshape(weights.shape)
        change = problem.columns @ direction
        change = probability * (change - (probability * change).sum(axis=1, keepdims=True))
        return (problem.columns.T @ change / len(change) + problem.penalty * direction).ravel()

    return LinearOperator((weights.size, weights.size), matvec=product, dtype=np.float64)


def sharpest(problem: Problem, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """The Hessian's largest eigenvalue, and its direction: length 1, the shape of weights, either sign."""
    first = np.random.default_rng(0).normal(size=weights.size)
    values, directions = eigsh(hessian(problem, weights), k=1, which="LA", v0=first)
    return float(values[0]), directions[:, 0].reshape(weights.shape)


def minimum(problem: Problem) -> np.ndarray:
    """Weights at which the gradient is no longer than SLOPE, by Newton's method with shortened steps."""
    weights = problem.start
    slope = gradient(problem, weights)
    while np.linalg.norm(slope) > SLOPE:
        step, _ = cg(hessian(problem, weights), -slope.ravel(), rtol=1e-6)
        weights = _lower(problem, weights, step.reshape(weights.shape))
        slope = gradient(problem, weights)
    return weights


def descend(problem: Problem, rate: float, weights: np.ndarray) -> Iterator[np.ndarray]:
    """Full-batch gradient descent without end: `weights` first, then those after each iteration."""
    while True:
        yield weights
        weights = weights - rate * gradient(problem, weights)


def leaves(problem: Problem, lowest: np.ndarray, rate: float) -> bool:
    """Whether descent that starts a little beside the minimum, in a fixed random direction, ends farther from it."""
    nudge = np.random.default_rng(0).normal(size=lowest.shape)
    nudge *= NUDGE / np.linalg.norm(nudge)
    distance = NUDGE
    for weights in islice(descend(problem, rate, lowest + nudge), PROBE + 1):
        distance = np.linalg.norm(weights - lowest)
        if distance > 100 * NUDGE:
            break
    return bool(distance > NUDGE)


def measured_edge(problem: Problem, lowest: np.ndarray) -> float:
    """The rate from which on descent leaves the minimum, by bisection on what descent does; asks no Hessian."""
    low, high = 1.0, 1.0
    while leaves(problem, lowest, low):
        low, high = low / 2, low
    while not leaves(problem, lowest, high):
        low, high = high, high * 2
    while high / low > 1 + PRECISION:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if leaves(problem, lowest, middle) else (middle, high)
    return math.sqrt(low * high)


def factor(problem: Problem, lowest: np.ndarray, direction: np.ndarray, rate: float) -> float:
    """What one iteration multiplies a small distance from the minimum along `direction` by; negative: other side."""
    weights = lowest + NUDGE * direction
    return float(((weights - rate * gradient(problem, weights) - lowest) * direction).sum() / NUDGE)


def plane(lowest: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Two directions at right angles and of length 1, (2, columns, labels), that span a plane through the minimum.

    Args:
        lowest: the minimum; descent comes from zero.
        direction: the sharpest at the minimum, where a rate too high shows first. It is the first, turned so that
            descent comes from its negative side; the second points from the start to the minimum as far as the first
            does not.
    """
    across = direction if (direction * lowest).sum() >= 0 else -direction
    along = lowest - (lowest * across).sum() * across
    return np.stack([across, along / np.linalg.norm(along)])


def surface(problem: Problem, lowest: np.ndarray, directions: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Loss at lowest + x times the first direction + y times the second: (ys, xs)."""
    origin, *moves = (problem.columns @ part for part in (lowest, *directions))
    label = problem.targets.argmax(axis=1)
    rows = np.arange(len(label))

    def at(x: float, y: float) -> float:
        logs = log_softmax(origin + x * moves[0] + y * moves[1], axis=1)
        weights = lowest + x * directions[0] + y * directions[1]
        return float(-logs[rows, label].mean() + problem.penalty / 2 * (weights**2).sum())

    return np.array([[at(x, y) for x in xs] for y in ys])


def _lower(problem: Problem, weights: np.ndarray, step: np.ndarray) -> np.ndarray:
    """weights + step, the step halved until the loss does not rise, but for rounding."""
    limit = loss(problem, weights) + 1e-12
    while loss(problem, weights + step) > limit:
        step = step / 2
    return weights + step
