"""Do the examples of different labels lie apart in the space in which a classifier sees them?"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

FOLDS = 10


def project(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All frames in one plane: the first two principal components of the last frame, about that frame's mean.

    The plane is fixed by the last frame alone, so that a point moves from frame to frame only if its representation
    does. Of each direction and its opposite, that is taken in which the largest component is positive.

    Source: K. Pearson, "On lines and planes of closest fit to systems of points in space", Philosophical Magazine 2
    (1901), 559-572.

    Args:
        frames: representations of the same rows over time, shape (frames, rows, width), 2 rows and 2 wide at least.

    Returns:
        float64 points, shape (frames, rows, 2); the share of the last frame's variance along each direction, (2,).
    """
    frames = np.asarray(frames, dtype=np.float64)
    centre = frames[-1].mean(axis=0)
    _, singular, directions = np.linalg.svd(frames[-1] - centre, full_matrices=False)
    directions = directions[:2]
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[[0, 1], largest])[:, None]
    variance = singular**2
    shares = np.divide(variance[:2], variance.sum(), out=np.zeros(2), where=variance.sum() > 0)
    return (frames - centre) @ directions.T, shares


def probe(seen: np.ndarray, label: np.ndarray, folds: int = FOLDS) -> np.ndarray:
    """The label that logistic regression gives each row when fitted to the rows of the other folds.

    The share of right ones is the separability: it uses the whole space, of which a picture shows two dimensions, and
    never judges a row that was fitted. Equal input gives equal output. A label's only row is never given that label.

    Source: G. Alain and Y. Bengio, "Understanding intermediate layers using linear classifier probes", ICLR 2017
    workshop; fitted by scikit-learn.

    Args:
        seen: representations, shape (rows, width).
        label: indices, shape (rows,).
        folds: at most; no more than there are rows.

    Returns:
        label indices, shape (rows,).
    """
    seen = np.asarray(seen, dtype=np.float64)
    fold = stratified_folds(label, min(folds, len(label)))
    predicted = np.empty_like(label)
    for index in np.unique(fold):
        held_out = fold == index
        predicted[held_out] = _answers(seen[~held_out], label[~held_out], seen[held_out])
    return predicted


def stratified_folds(label: np.ndarray, folds: int) -> np.ndarray:
    """A fold for each row, the same each time, so that frames compare: sizes of a label's folds differ by 1 at most."""
    shuffled = np.random.default_rng(0).permutation(len(label))
    order = np.lexsort((shuffled, label))
    fold = np.empty(len(label), dtype=np.int64)
    fold[order] = np.arange(len(label)) % folds
    return fold


def _answers(seen: np.ndarray, label: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """What logistic regression fitted to `seen` gives `unseen`.

    Both are measured in units of the mean (root of squares) distance from the centre, so that the usual penalty means
    the same for every model and turning the space changes nothing.
    """
    if len(np.unique(label)) == 1:  # the other label's only row is held out
        return np.full(len(unseen), label[0])
    centre = seen.mean(axis=0)
    unit = np.sqrt(((seen - centre) ** 2).sum(axis=1).mean()) or 1.0
    fitted = LogisticRegression(max_iter=1000).fit((seen - centre) / unit, label)
    return fitted.predict((unseen - centre) / unit)
