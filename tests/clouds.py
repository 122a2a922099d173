"""Made-up representations whose labels draw apart, and what the page of them is made of."""

from __future__ import annotations

import numpy as np

from tuneledger.show.structure import Structure
from tuneledger.stages.structure import structure


def clouds(
    names: list[str], rows: int, epochs: int, width: int = 8, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (rows,), representations (epochs + 1, rows, width) and logits (epochs + 1, rows, labels).

    Rows of a label lie around a place of its own, which moves away from the others with every epoch; the logits are
    what a head that knows these places gives. Every label occurs, the first ones most often.
    """
    random = np.random.default_rng(seed)
    shares = np.linspace(2, 1, len(names)) / np.linspace(2, 1, len(names)).sum()
    label = np.concatenate([np.arange(len(names)), random.choice(len(names), rows - len(names), p=shares)])
    places = random.normal(size=(len(names), width))
    noise = random.normal(size=(rows, width))
    hidden = np.stack([epoch * places[label] + noise for epoch in range(epochs + 1)])
    return label, hidden, hidden @ places.T


def values(names: list[str] | None = None, rows: int = 40, epochs: int = 3) -> Structure:
    """What the page shows of such representations."""
    names = names or ["no", "yes"]
    label, hidden, logits = clouds(names, rows, epochs)
    return structure(names, label, np.arange(rows), hidden, logits)
