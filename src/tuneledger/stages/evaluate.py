"""Stage `evaluate`: judge the trained model on rows it was not trained on.

Reads models/best, data/tokenized and data/prepared; writes results/eval/. Alone:
`python -m tuneledger.stages.evaluate`. The test split is judged where the data has one, else validation.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tuneledger.conf import read_params
from tuneledger.errors import UserError
from tuneledger.judge.calibration import calibration
from tuneledger.judge.metrics import NAMES, probabilities, scores
from tuneledger.judge.slices import slices
from tuneledger.learn.predict import predict
from tuneledger.paths import BEST_MODEL, EVAL_RESULTS, PREPARED, TOKENIZED, replacing, require, write_json, write_text
from tuneledger.stages import run_stage

DIGITS = 6  # of figures on disk: below any meaning, above any difference between machines


@dataclass(frozen=True)
class Evaluation:
    """Everything evaluate writes but its cost: one dict and four tables, each a file of results/eval."""

    metrics: dict[str, Any]
    slices: pd.DataFrame
    confusion: pd.DataFrame
    calibration: pd.DataFrame
    predictions: pd.DataFrame


def evaluate(frame: pd.DataFrame, logits: np.ndarray, schema: dict[str, Any]) -> Evaluation:
    """Judge `logits`, shape (rows, labels), against the labels of prepared rows in the same order.

    Args:
        frame: `label` (index), `source`, texts and further columns.
        schema: data/prepared/schema.json: `labels` (names by index), `slices` (columns).

    Raises:
        UserError: the logits belong to other data, or are not finite.
    """
    _check(frame, logits, schema["labels"])
    names = np.array(schema["labels"], dtype=object)
    label, predicted = frame["label"].to_numpy(), logits.argmax(axis=1)
    probability = probabilities(logits)
    return Evaluation(
        metrics={"rows": len(frame), **scores(label, logits)},
        slices=slices(frame, predicted, schema["slices"], len(names)),
        confusion=pd.DataFrame({"actual": names[label], "predicted": names[predicted]}),
        calibration=calibration(probability.max(axis=1), predicted == label),
        predictions=_predictions(frame, names, probability, logits),
    )


def judged_split(folder: Path) -> str:
    """test if prepared with labels, else validation."""
    return "test" if (folder / "test.parquet").exists() else "validation"


def summary(metrics: dict[str, Any], confusion: pd.DataFrame) -> str:
    """What the terminal shows: a line per score with its interval, and what to beware of."""
    lines = [f"{metrics['split']}: {metrics['rows']} rows, majority baseline {metrics['majority_baseline']:.3f}"]
    if metrics["split"] != "test":
        lines.append("  no labelled test split: judged on validation, which also judged each epoch of training")
    for name in NAMES:
        low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
        lines.append(f"  {name:<10}{metrics[name]:.3f}  [{low:.3f}, {high:.3f}]")
    if confusion["predicted"].nunique() == 1:
        lines.append(f"  warning: collapsed, every row is predicted {confusion['predicted'].iloc[0]!r}")
    return "\n".join(lines)


def main() -> None:
    params = read_params("loader", "trainer")
    split = judged_split(PREPARED)
    schema = json.loads(require(PREPARED / "schema.json").read_text(encoding="utf-8"))
    frame = pd.read_parquet(PREPARED / f"{split}.parquet")
    start = time.perf_counter()
    logits = predict(
        require(BEST_MODEL),
        require(TOKENIZED / f"{split}.arrow"),
        batch_size=params["loader"]["eval_batch_size"],
        accelerator=params["trainer"]["accelerator"],
    )
    seconds = time.perf_counter() - start
    result = evaluate(frame, logits, schema)
    metrics = {"split": split, **_rounded(result.metrics)}
    _write(EVAL_RESULTS, result, metrics)
    cost = {"evaluate_seconds": round(seconds, 3), "examples_per_second": round(len(frame) / seconds, 1)}
    write_json(EVAL_RESULTS / "cost.json", cost)
    print(summary(metrics, result.confusion))


def _check(frame: pd.DataFrame, logits: np.ndarray, labels: list[str]) -> None:
    if logits.shape != (len(frame), len(labels)):
        raise UserError(
            f"models/best gave logits of shape {logits.shape} for {len(frame)} rows and {len(labels)} labels "
            "in data/prepared: they do not belong together, run `dvc repro`"
        )
    bad = ~np.isfinite(logits).all(axis=1)
    if bad.any():
        raise UserError(
            f"models/best gives NaN or infinite logits for {bad.sum()} of {len(frame)} rows, first for "
            f"{frame['source'].iloc[bad.argmax()]}: train again with a lower optim.lr"
        )


def _predictions(frame: pd.DataFrame, names: np.ndarray, probability: np.ndarray, logits: np.ndarray) -> pd.DataFrame:
    """The judged rows and what was said of each; an input column under one of our names becomes input_*."""
    judged = {
        "label": names[frame["label"].to_numpy()],
        "predicted": names[logits.argmax(axis=1)],
        "confidence": probability.max(axis=1),
        **{f"probability_{name}": probability[:, index] for index, name in enumerate(names)},
        **{f"logit_{name}": logits[:, index] for index, name in enumerate(names)},
    }
    given = frame.drop(columns="label")
    given = given.rename(columns={name: f"input_{name}" for name in given if name in judged})
    first = [name for name in ("source", "text_a", "text_b") if name in given]
    given = given[first + [name for name in given if name not in first]]
    return pd.concat([given.reset_index(drop=True), pd.DataFrame(judged)], axis=1)


def _rounded(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, DIGITS) if isinstance(value, float) else value for key, value in metrics.items()}


def _write(folder: Path, result: Evaluation, metrics: dict[str, Any]) -> None:
    write_json(folder / "metrics.json", metrics)
    tables = {"confusion": result.confusion, "slices": result.slices, "calibration": result.calibration}
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", table.round(DIGITS).to_csv(index=False))
    with replacing(folder / "predictions.parquet") as partial:
        result.predictions.to_parquet(partial, index=False)


if __name__ == "__main__":
    run_stage(main)
