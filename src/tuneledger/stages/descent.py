"""Stage `descent`: what the same learning rates do to a linear head, whose loss can be seen, and to the whole encoder.

Reads data/tokenized; writes results/descent/, reports/descent.html and reports/descent/. Alone:
`python -m tuneledger.stages.descent`. Runs on the CPU, so that equal settings and data give equal bytes.
"""

from __future__ import annotations

import json
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from transformers import PreTrainedModel

from tuneledger.conf import bind, read_params
from tuneledger.explore.constant_rate import steps_at
from tuneledger.explore.descent import (
    NUDGE,
    Problem,
    check_descent,
    descend,
    factor,
    loss,
    measured_edge,
    minimum,
    plane,
    sharpest,
    standardised,
    surface,
)
from tuneledger.judge.intervals import wilson
from tuneledger.judge.metrics import majority_baseline
from tuneledger.judge.stability import LAST, chance_loss, ending, outcome, regime, threshold
from tuneledger.learn.build import build
from tuneledger.learn.datamodule import Batches
from tuneledger.learn.representations import represent
from tuneledger.paths import TOKENIZED, replacing, require, write_json, write_text
from tuneledger.publish import publish
from tuneledger.show.descent import Descent, html, pictures, section
from tuneledger.stages import run_stage

RESULTS = Path("results/descent")
SECTIONS = ("seed", "descent", "model", "optim", "loss", "loader", "trainer")
ROWS = 4000  # of the training split for the head: its curvature changes little with more
PENALTY = 0.1  # of the head: bounds the ratio of curvatures, so that 50 iterations can come near the minimum
BEYOND = 1.05  # times the measured edge: a further path, to show what the edge means
TRIED = 33  # rates from low to high, for the picture of the edge
GRID = 81  # points a side of the loss surface
ROUNDING = 1e-12  # by which a loss near the minimum can seem to rise


def head_problem(model: PreTrainedModel, batches: Batches) -> tuple[Problem, np.ndarray]:
    """The head's problem on training rows, at most ROWS of them, and the validation rows' columns."""
    total = len(batches.train)
    rows = np.sort(np.random.default_rng(0).choice(total, ROWS, replace=False)) if total > ROWS else np.arange(total)
    features = [
        represent(model, split, chosen, batch_size=batches.eval_batch_size, collate=batches.collate)[0]
        for split, chosen in ((batches.train, rows), (batches.validation, np.arange(len(batches.validation))))
    ]
    columns, judged = standardised(*features)
    return Problem(columns, np.eye(len(batches.labels))[batches.train.labels[rows]], PENALTY), judged


def on_head(
    problem: Problem, judged: np.ndarray, labels: np.ndarray, *, rates: list[float], iterations: int
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Descend at each rate, and find where the edge lies.

    Args:
        judged, labels: columns and label indices of the validation rows.

    Returns:
        the tables paths, surface and edge, each a file of results/descent, and the summary's entries.
    """
    lowest = minimum(problem)
    curvature, direction = sharpest(problem, lowest)
    start_curvature, _ = sharpest(problem, problem.start)
    measured = measured_edge(problem, lowest)
    beyond = _short(BEYOND * measured)
    directions = plane(lowest, direction)
    paths = pd.DataFrame(
        {
            "rate": rate,
            "iteration": iteration,
            "loss": loss(problem, weights),
            "accuracy": _accuracy(judged, labels, weights),
            **dict(zip(("x", "y"), ((weights - lowest) * directions).sum(axis=(1, 2)), strict=True)),
        }
        for rate in [*rates, beyond]
        for iteration, weights in enumerate(islice(descend(problem, rate, problem.start), iterations + 1))
    )
    edge = pd.DataFrame(
        {
            "rate": rate,
            "loss": loss(problem, next(islice(descend(problem, rate, problem.start), iterations, None))),
            "factor": factor(problem, lowest, direction, rate),
        }
        for rate in np.geomspace(min(*rates, measured) / 2, min(max(*rates, measured) * 3, 2 / PENALTY), TRIED)
    )
    rows, width = problem.columns.shape
    summary = {
        "rows": rows,
        "features": width - 1,
        "weights": lowest.size,
        "validation_rows": len(labels),
        "majority_baseline": majority_baseline(labels),
        "penalty": problem.penalty,
        "iterations": iterations,
        "start_loss": loss(problem, problem.start),
        "lowest_loss": loss(problem, lowest),
        "lowest_accuracy": _accuracy(judged, labels, lowest),
        "curvature": curvature,
        "edge": 2 / curvature,
        "nudge": NUDGE,
        "measured_edge": measured,
        "start_curvature": start_curvature,
        "start_edge": 2 / start_curvature,
        "beyond": beyond,
        "rates": [_describe(path, curvature, len(labels)) for _, path in paths.groupby("rate", sort=False)],
    }
    return {"paths": paths, "surface": _surface(problem, lowest, directions, paths), "edge": edge}, summary


def on_encoder(
    model: PreTrainedModel, batches: Batches, params: dict[str, Any], *, rates: list[float], iterations: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train the whole model at each rate and at the configured one: rate, step, loss; and what became of it."""
    configured = params["optim"]["lr"]
    chance = chance_loss(batches.train.labels)
    clip = params["trainer"]["gradient_clip_val"]
    parts, runs, first = [], [], chance
    for rate in [*rates, *({configured} - set(rates))]:
        losses, moved = steps_at(
            model, batches, rate, iterations, seed=params["seed"], optim=params["optim"], loss=params["loss"], clip=clip
        )
        parts.append(pd.DataFrame({"rate": rate, "step": range(1, len(losses) + 1), "loss": losses}))
        became, first = outcome(losses, chance), losses[0]  # the same for all: the same weights and batch
        print(f"encoder at {rate:g}: loss {losses[0]:.3f} at first, {losses[-1]:.3f} in the end, {became}", flush=True)
        mean, error = ending(losses) if np.isfinite(losses).all() else (None, None)
        runs.append({"rate": rate, "outcome": became, "loss": mean, "error": error, "moved": moved})
    summary = {
        "configured": configured,
        "chance": chance,
        "threshold": threshold(first, chance),
        "last": LAST,
        "weight": _typical_weight(model),
        "batch_size": params["loader"]["batch_size"],
        "runs": runs,
    }
    return pd.concat(parts), summary


def read_results(folder: Path) -> Descent:
    """results/descent as values."""
    tables = {name: pd.read_csv(require(folder / f"{name}.csv")) for name in ("paths", "surface", "edge", "encoder")}
    return Descent(**tables, summary=json.loads(require(folder / "summary.json").read_text(encoding="utf-8")))


def main() -> None:
    params = read_params(*SECTIONS)
    settings = bind(check_descent, "descent", params["descent"])
    check_descent(**settings)
    meta = json.loads(require(TOKENIZED / "meta.json").read_text(encoding="utf-8"))
    module, batches = build(params, meta, TOKENIZED)
    problem, judged = head_problem(module.model, batches)
    print(f"descent on {problem.targets.size} outputs of the head", flush=True)
    # On one thread, since the last bits of a product depend on the number of threads.
    with threadpool_limits(1, user_api="blas"):
        tables, summary = on_head(problem, judged, batches.validation.labels, **settings)
    print(f"edge: 2/lambda_max {summary['edge']:.4g}, measured {summary['measured_edge']:.4g}", flush=True)
    tables["encoder"], summary["encoder"] = on_encoder(module.model, batches, params, **settings)
    with replacing(RESULTS) as folder:
        for name, table in tables.items():
            write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g", na_rep="nan"))
        write_json(folder / "summary.json", _rounded(summary))
    values = read_results(RESULTS)
    publish("descent", html(values), section(values), pictures(values))
    print("descent: reports/descent.html")


def _surface(problem: Problem, lowest: np.ndarray, directions: np.ndarray, paths: pd.DataFrame) -> pd.DataFrame:
    """x, y, loss on a grid that holds all paths and the minimum, with a margin."""
    xs, ys = (_axis(paths[name]) for name in ("x", "y"))
    across, along = np.meshgrid(xs, ys)
    height = surface(problem, lowest, directions, xs, ys)
    return pd.DataFrame({"x": across.ravel(), "y": along.ravel(), "loss": height.ravel()})


def _describe(path: pd.DataFrame, curvature: float, rows: int) -> dict[str, Any]:
    """What one path of descent did."""
    rate, last = float(path["rate"].iloc[0]), path.iloc[-1]
    low, high = wilson(round(last["accuracy"] * rows), rows)
    return {
        "rate": rate,
        "regime": regime(rate, curvature),
        "loss": last["loss"],
        "rises": sum(after > before + ROUNDING for before, after in pairwise(path["loss"])),
        "turns": int((np.diff(np.sign(np.diff(path["x"]))) != 0).sum()),
        "accuracy": last["accuracy"],
        "accuracy_low": low,
        "accuracy_high": high,
    }


def _accuracy(columns: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    return float(((columns @ weights).argmax(axis=1) == labels).mean())


def _axis(places: pd.Series) -> np.ndarray:
    low, high = min(places.min(), 0.0), max(places.max(), 0.0)
    margin = 0.15 * (high - low)
    return np.linspace(low - margin, high + margin, GRID)


def _typical_weight(model: PreTrainedModel) -> float:
    """Root mean square of the weights of all matrices."""
    matrices = [p.detach().double() for p in model.parameters() if p.ndim >= 2]
    return float(np.sqrt(sum((p**2).sum().item() for p in matrices) / sum(p.numel() for p in matrices)))


def _short(value: float) -> float:
    """As the files have it: six significant digits, above any difference between machines."""
    return float(f"{value:.6g}")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return _short(value) if isinstance(value, float) else value


if __name__ == "__main__":
    run_stage(main)
