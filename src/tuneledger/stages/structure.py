"""Stage `structure`: how the model learns the structure of the data, epoch by epoch.

Reads data/tokenized and results/train/validation.npz; writes results/structure/, reports/structure.html and
reports/structure/. Alone: `python -m tuneledger.stages.structure`. Runs the untrained model once, trains nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tuneledger.conf import bind, read_params
from tuneledger.errors import UserError
from tuneledger.judge.compare import mcnemar_exact
from tuneledger.judge.intervals import wilson
from tuneledger.judge.metrics import majority_baseline
from tuneledger.judge.separability import FOLDS, probe, project
from tuneledger.paths import REPORTS, TOKENIZED, TRAIN_RESULTS, replacing, require, write_json, write_text
from tuneledger.publish import publish
from tuneledger.show.structure import Structure, html, pictures, section
from tuneledger.stages import run_stage

VALIDATION = TRAIN_RESULTS / "validation.npz"
RESULTS = Path("results/structure")
DIGITS = 4


def structure(
    names: list[str], label: np.ndarray, rows: np.ndarray, hidden: np.ndarray, logits: np.ndarray
) -> Structure:
    """The rows as points in one plane, and how far their labels lie apart, before training and after each epoch.

    Args:
        names: labels in the order of the logits.
        label: of every validation row, indices, shape (validation rows,).
        rows: which of them are shown, shape (rows,).
        hidden: what the last layer sees of these, shape (epochs + 1, rows, width), frame 0 before training.
        logits: of these, shape (epochs + 1, rows, labels).

    Raises:
        UserError: the rows have one label only, or a value is not finite.
    """
    label = label[rows]
    _check_finite(hidden, logits)
    if len(np.unique(label)) < 2:
        raise UserError(
            f"all {len(rows)} validation rows shown have the label {names[label[0]]!r}: nothing to separate. Give more "
            "rows, or draw the split anew with data.split=stratified"
        )
    points, shares = project(hidden)
    predicted = logits.argmax(axis=2)
    probed = np.stack([probe(seen, label) == label for seen in hidden])
    won, lost, p = mcnemar_exact(probed[-1], probed[0])
    return Structure(
        points=_points(names, label, rows, points, predicted).round(DIGITS),
        frames=pd.DataFrame(
            {"epoch": epoch, **_share("separability", right), **_share("accuracy", said == label)}
            for epoch, (right, said) in enumerate(zip(probed, predicted, strict=True))
        ).round(DIGITS),
        summary={
            "labels": names,
            "rows": len(rows),
            "width": hidden.shape[2],
            "folds": min(FOLDS, len(rows)),
            "explained": [round(float(share), DIGITS) for share in shares],
            "majority_baseline": round(majority_baseline(label), DIGITS),
            "won": won,
            "lost": lost,
            "p": round(p, DIGITS),
        },
    )


def read_validation(path: Path, names: list[str], rows: int) -> dict[str, np.ndarray]:
    """The arrays of results/train/validation.npz, which belong to a validation split of so many rows.

    Raises:
        UserError: the file is missing or was written by a training on other data, or the model has nothing to draw.
    """
    with np.load(require(path), allow_pickle=False) as file:
        arrays = dict(file)
    logits, hidden = arrays["logits"], arrays["hidden"]
    if logits.shape[1:] != (rows, len(names)) or hidden.shape[:2] != (len(logits), len(arrays["sample"])):
        raise UserError(
            f"{path} holds logits of shape {logits.shape} and representations of shape {hidden.shape} for a validation "
            f"split of {rows} rows and {len(names)} labels: they do not belong together, run `dvc repro`"
        )
    if not hidden.shape[2]:
        raise UserError(f"{path} holds no representations: the model's head does not see one vector a text")
    return arrays


def write_results(folder: Path, result: Structure) -> None:
    with replacing(folder) as partial:
        write_text(partial / "points.csv", result.points.to_csv(index=False))
        write_text(partial / "frames.csv", result.frames.to_csv(index=False))
        write_json(partial / "summary.json", result.summary)


def read_results(folder: Path) -> Structure:
    """results/structure as values; labels stay as written, also one called 1 or NA."""
    return Structure(
        points=pd.read_csv(
            require(folder / "points.csv"), dtype={"label": str, "predicted": str}, keep_default_na=False
        ),
        frames=pd.read_csv(require(folder / "frames.csv")),
        summary=json.loads(require(folder / "summary.json").read_text(encoding="utf-8")),
    )


def main() -> None:
    params = read_params("seed", "model", "loader", "trainer")
    meta = json.loads(require(TOKENIZED / "meta.json").read_text(encoding="utf-8"))
    after = read_validation(VALIDATION, meta["labels"], meta["splits"]["validation"]["rows"])
    hidden, logits = _before(params, meta["labels"], after["sample"])
    found = structure(
        meta["labels"],
        after["labels"],
        after["sample"],
        np.concatenate([hidden[None], after["hidden"]]),
        np.concatenate([logits[None], after["logits"][:, after["sample"]]]),
    )
    write_results(RESULTS, found)
    result = read_results(RESULTS)
    first, last = (float(value) for value in result.frames["separability"].iloc[[0, -1]])
    publish("structure", html(result), section(result), pictures(result))
    print(f"structure: {REPORTS / 'structure.html'}; separability {first:.3f} before training, {last:.3f} at the end")


def _before(params: dict[str, Any], names: list[str], sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from tuneledger.explore.untrained import untrained
    from tuneledger.learn.encoder import load_encoder  # imports torch, for which a missing file need not wait

    return untrained(
        names,
        TOKENIZED,
        sample,
        seed=params["seed"],
        model=bind(load_encoder, "model", params["model"]),
        batch_size=params["loader"]["eval_batch_size"],
        accelerator=params["trainer"]["accelerator"],
    )


def _check_finite(hidden: np.ndarray, logits: np.ndarray) -> None:
    bad = ~(np.isfinite(hidden).all(axis=(1, 2)) & np.isfinite(logits).all(axis=(1, 2)))
    if bad.any():
        raise UserError(
            f"the model's representations or logits after epoch {bad.argmax()} are NaN or infinite: "
            "train again with a lower optim.lr"
        )


def _points(
    names: list[str], label: np.ndarray, rows: np.ndarray, points: np.ndarray, predicted: np.ndarray
) -> pd.DataFrame:
    """epoch, row, x, y, label, predicted: from points, (frames, rows, 2), and label indices, (frames, rows)."""
    text, frames = np.array(names, dtype=object), len(points)
    return pd.DataFrame(
        {
            "epoch": np.repeat(np.arange(frames), len(rows)),
            "row": np.tile(rows, frames),
            "x": points[:, :, 0].ravel(),
            "y": points[:, :, 1].ravel(),
            "label": np.tile(text[label], frames),
            "predicted": text[predicted].ravel(),
        }
    )


def _share(name: str, right: np.ndarray) -> dict[str, float]:
    low, high = wilson(right.sum(), len(right))
    return {name: float(right.mean()), f"{name}_low": low, f"{name}_high": high}


if __name__ == "__main__":
    run_stage(main)
