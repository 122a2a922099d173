"""Small convex problems, and what the page of learning rates is made of, computed on one of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tuneledger.explore.descent import Problem, standardised
from tuneledger.show.descent import Descent
from tuneledger.stages.descent import on_head


def problem(rows: int = 60, width: int = 4, labels: int = 2, penalty: float = 0.1, seed: int = 0) -> Problem:
    """Random features that tell something about random labels; wide ones can be parted by a plane."""
    random = np.random.default_rng(seed)
    label = random.integers(labels, size=rows)
    features = random.normal(size=(rows, width)) * random.uniform(0.2, 3, width)
    features += np.eye(labels)[label] @ random.normal(size=(labels, width))
    (columns,) = standardised(features)
    return Problem(columns, np.eye(labels)[label], penalty)


def values(
    rates: tuple[float, ...] = (0.1, 0.01), outcomes: dict[float, dict[str, Any]] | None = None, iterations: int = 20
) -> Descent:
    """Real descent on a small problem, with made-up runs of the encoder.

    Args:
        outcomes: rate -> entries of its run that differ from a diverged one.
    """
    one = problem()
    judged, label = one.columns[:30], one.targets[:30].argmax(axis=1)
    tables, summary = on_head(one, judged, label, rates=list(rates), iterations=iterations)
    base = {"outcome": "diverged", "loss": 4.27, "error": 1.03, "moved": 6.8}
    learning = {"outcome": "learns", "loss": 0.41, "error": 0.02, "moved": 0.011}
    runs = [{"rate": rate, **base, **(outcomes or {}).get(rate, {})} for rate in rates] + [{"rate": 1e-4, **learning}]
    steps = np.arange(1, iterations + 1)
    curves = [pd.DataFrame({"rate": run["rate"], "step": steps, "loss": 0.7 + run["rate"] * steps}) for run in runs]
    summary["encoder"] = {
        "configured": 1e-4,
        "chance": 0.65,
        "threshold": 0.75,
        "last": 10,
        "weight": 0.058,
        "batch_size": 16,
        "runs": runs,
    }
    return Descent(**tables, encoder=pd.concat(curves), summary=summary)
