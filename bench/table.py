"""Runs as figures and as Markdown; pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from contestants import CONTESTANTS

from tuneledger.judge.intervals import RESAMPLES, percentile
from tuneledger.show.tables import ABSENT, markdown, number

WARMUP = 20  # steps left out of ms/step, and of no other clock
CLOCKS = {
    "ms_per_step": "Steady step, ms",
    "loop_seconds": "Training loop with evaluations, s",
    "metrics_seconds": "Process start to metrics on disk, s",
    "exit_seconds": "Process start to its end, s",
}
PEERS = ("as_written", "tuned")
SCORES = {"accuracy": "accuracy", "f1": "F1", "loss": "loss"}
Run = dict[str, Any]
BySeed = dict[int, float]


def step_figures(ends: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles of the milliseconds from one step's end to the next, after WARMUP steps.

    The first step of a later epoch holds the evaluation before it, for every contestant: 2 of 1,357, which a median
    does not notice.
    """
    low, middle, high = np.quantile(1000 * np.diff(ends[WARMUP - 1 :]), [0.25, 0.5, 0.75]).tolist()
    return {"ms_per_step": middle, "ms_per_step_quartiles": [low, high]}


def summary(values: Sequence[float]) -> tuple[float, float, float, float | None]:
    """Median, smallest, largest, and the mean without these two (None of fewer than three)."""
    ordered = sorted(values)
    return float(np.median(ordered)), ordered[0], ordered[-1], float(np.mean(ordered[1:-1])) if ordered[2:] else None


def ratio_of_medians(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.median(first, axis=-1) / np.median(second, axis=-1)


def ratio_of_low_medians(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The same where second values may be infinite: of two in the middle the lower counts."""
    middle = (second.shape[-1] - 1) // 2
    return np.median(first, axis=-1) / np.sort(second, axis=-1)[..., middle]


def mean_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first - second).mean(axis=-1)


def paired(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], first: BySeed, second: BySeed
) -> tuple[float, float, float]:
    """A statistic of two contestants with its percentile bootstrap interval; both have the same seeds.

    Seeds are drawn, with both contestants' runs of them. Of a single seed the interval has no width.
    """
    sides = [np.array([side[seed] for seed in sorted(first)]) for side in (first, second)]
    drawn = np.random.default_rng(0).integers(len(first), size=(RESAMPLES, len(first)))
    estimate = float(statistic(*sides))
    return estimate, *percentile(statistic(*(side[drawn] for side in sides)), estimate)


def interval(figures: tuple[float, float, float], digits: int) -> str:
    """As "estimate [low, high]"; without brackets where they hold nothing else."""
    value, low, high = (number(figure, digits) for figure in figures)
    return f"{value} [{low}, {high}]" if low != high else value


def position(value: float, reference: Sequence[float]) -> str:
    """Where a value lies: "below", "inside" or "above" what reaches from the reference's smallest to its largest."""
    return "below" if value < min(reference) else "above" if value > max(reference) else "inside"


def by_seed(runs: list[Run], figure: Callable[[Run], float]) -> dict[str, BySeed]:
    """A figure of each run, by contestant in the order of CONTESTANTS, and seed."""
    found = {name: {run["seed"]: figure(run) for run in runs if run["contestant"] == name} for name in CONTESTANTS}
    return {name: seeds for name, seeds in found.items() if seeds}


def clock_table(runs: list[Run], clock: str) -> str:
    """A line for each contestant; empty without runs."""
    values = by_seed(runs, lambda run: run[clock])
    peers = [peer for peer in PEERS if peer in values]
    rows = []
    for name, seeds in values.items():
        figures = [number(value, 1) for value in summary([*seeds.values()])]
        ratios = ["1" if peer == name else interval(paired(ratio_of_medians, values[peer], seeds), 2) for peer in peers]
        rows.append([name, CONTESTANTS[name].batches, len(seeds), *figures, *ratios])
    columns = ["", "batches", "runs", "median", "min", "max", "mean without these two"]
    return markdown([*columns, *(f"{peer} ÷ this" for peer in peers)], rows, text_columns=2) if rows else ""


def outside_table(runs: list[Run]) -> str:
    """What a process does beside its training loop, as medians over seeds."""
    parts: dict[str, Callable[[Run], float]] = {
        "start to training, s": lambda run: run["metrics_seconds"] - run["loop_seconds"] - _writing(run),
        "training loop, s": lambda run: run["loop_seconds"],
        "metrics to disk, s": _writing,
        "to the end, s": lambda run: run["exit_seconds"] - run["metrics_seconds"],
        "outside the loop, %": lambda run: 100 * (1 - run["loop_seconds"] / run["exit_seconds"]),
    }
    columns = [by_seed(runs, figure) for figure in parts.values()]
    rows = [[name, *(number(float(np.median([*side[name].values()])), 1) for side in columns)] for name in columns[0]]
    return markdown(["", *parts], rows)


def _writing(run: Run) -> float:
    """Seconds from the last evaluation's scores to the file that has them."""
    return run["metrics_seconds"] - run["epochs"][-1]["since_start"]


def target(runs: list[Run]) -> float:
    """The F1 with which `as_written`'s median run ends; of two in the middle the lower, so that half reach it."""
    return statistics.median_low([run["epochs"][-1]["f1"] for run in runs if run["contestant"] == "as_written"])


def seconds_to(run: Run, f1: float) -> float:
    """From the start of the process to the first evaluation that gave at least this F1; infinite if none did."""
    return min((epoch["since_start"] for epoch in run["epochs"] if epoch["f1"] >= f1), default=math.inf)


def recipe_table(runs: list[Run]) -> str:
    """Scores of the last checkpoint, as medians, and how long each contestant takes from its start to `target`.

    A run that never gets there takes for ever. The ratio is to the whole of as_written's runs, up to their last scores,
    since half of these may never get there. Without runs of `as_written` there are scores alone.
    """
    written = by_seed(runs, lambda run: run["metrics_seconds"]).get("as_written")
    goal = target(runs) if written else math.nan
    rows = []
    for name, seeds in by_seed(runs, lambda run: seconds_to(run, goal)).items():
        last = [run["epochs"][-1] for run in runs if run["contestant"] == name]
        scores = [number(float(np.median([epoch[score] for epoch in last])), 4) for score in ("accuracy", "f1")]
        clock = [ABSENT] * 3
        if written:
            clock[0] = f"{sum(seconds < math.inf for seconds in seeds.values())} of {len(seeds)}"
            if (median := statistics.median_low(seeds.values())) < math.inf:
                clock[1] = number(median, 1)
                if name != "as_written":
                    clock[2] = interval(paired(ratio_of_low_medians, written, seeds), 2)
        rows.append([name, len(seeds), *scores, *clock])
    reach = f"reach F1 {number(goal, 4)}" if written else "reach as_written's F1"
    return markdown(["", "runs", "accuracy", "F1", reach, "median, s", "as_written's whole ÷ this"], rows)


def quality_table(runs: list[Run]) -> str:
    """The last checkpoint's scores over seeds, and against those of the recipe as written."""
    rows = []
    for score, title in SCORES.items():
        values = by_seed(runs, lambda run, score=score: run["epochs"][-1][score])
        reference = values.get("as_written")
        for name, seeds in values.items():
            against = [ABSENT] * 3
            if reference and name != "as_written":
                places = [position(value, [*reference.values()]) for value in seeds.values()]
                counts = " / ".join(str(places.count(place)) for place in ("below", "inside", "above"))
                median = position(float(np.median([*seeds.values()])), [*reference.values()])
                against = [interval(paired(mean_difference, seeds, reference), 4), counts, median]
            rows.append([title, name, *(number(value, 4) for value in summary([*seeds.values()])[:3]), *against])
    columns = [
        "",
        "",
        "median",
        "min",
        "max",
        "mean difference to as_written",
        "runs below / inside / above its range",
        "median lies",
    ]
    return markdown(columns, rows, text_columns=2)


def epochs_table(runs: list[Run]) -> str:
    """The scores after each epoch of each run."""
    most = max(len(run["epochs"]) for run in runs)
    rows = []
    for name, seeds in by_seed(runs, lambda run: run["epochs"]).items():
        for seed, epochs in sorted(seeds.items()):
            scores = [" / ".join(number(epoch[score], 4) for score in SCORES) for epoch in epochs]
            rows.append([name, seed, *scores, *[ABSENT] * (most - len(epochs))])
    titles = [f"epoch {index + 1}: {' / '.join(SCORES.values())}" for index in range(most)]
    return markdown(["", "seed", *titles], rows)


def page(runs: list[Run], facts: dict[str, Any]) -> str:
    """The whole result of at least one run; a short mode's have no epochs, and a step time alone.

    Args:
        facts: what the JSON file records beside the runs.
    """
    short = not all(run["epochs"] for run in runs)
    opened = facts["division"] == "open"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    kernels = f"Our kernels {'were' if facts['compiled_kernels'] else 'could not be'} compiled"
    made_by = f"Commit {' and '.join(facts['commits'])}; `{facts['command']}`"
    parts = [
        f"# all-MiniLM-L6-v2 on MRPC, {facts['division']} division",
        "\n".join(f"- `{name}`: {CONTESTANTS[name].what}" for name in by_seed(runs, len)),
        f"{facts['cpu']}, {facts['cores']} cores; Python {facts['python']}, {versions}. {kernels}. {made_by}.",
        "Brackets hold 95 % bootstrap intervals over seeds; a ratio is one of medians.",
    ]
    if opened:
        parts += ["## Time to the F1 at which as_written's median run ends", recipe_table(runs)]
    clocks = ["ms_per_step"] if short else [clock for clock in CLOCKS if clock != "ms_per_step" or not opened]
    for clock in clocks:
        parts += [f"## {CLOCKS[clock]}", clock_table(runs, clock)]
    if not short:
        parts += ["## Beside the training loop", outside_table(runs)]
        parts += ["## Scores on dev, last checkpoint", quality_table(runs)]
        parts += ["## Each run", epochs_table(runs)]
        constant = facts["always_one_label"]
        collapsed = [run for run in runs if any(one.items() <= run["epochs"][-1].items() for one in constant)]
        parts += [f"**Collapsed, answers always the same: {_names(collapsed)}.**"] if collapsed else []
    parts += [f"Made in this order: {_names(sorted(runs, key=lambda run: run['started']))}."]
    disturbed = [run for run in runs if run["disturbed"]]
    parts += [f"**Something else ran beside {_names(disturbed)}.**" if disturbed else "Nothing else ran beside them."]
    return "\n\n".join(parts) + "\n"


def _names(runs: list[Run]) -> str:
    return ", ".join(f"{run['contestant']} seed {run['seed']}" for run in runs)
