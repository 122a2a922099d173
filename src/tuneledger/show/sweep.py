"""The page of a sweep: which setting is best, by how much, and what it took to find out. Also in short as Markdown."""

from __future__ import annotations

from typing import Any

import pandas as pd
from markupsafe import Markup

from tuneledger.show import sweep_figures as figures
from tuneledger.show import sweep_sections as sections
from tuneledger.show.page import page, text
from tuneledger.show.sections import Cell
from tuneledger.show.sweep_results import (
    SEED,
    Ranking,
    Setting,
    SweepResults,
    Trial,
    best_seed,
    ranked,
    savings,
    spared_share,
    winner,
)
from tuneledger.show.tables import cell, clip, count, duration, interval, markdown, number

__all__ = ["SweepResults", "Trial", "html", "pictures", "table", "winner"]

RATE = "optim.lr"
SHOWN = 20  # lines of a table above the fold


def html(results: SweepResults) -> str:
    """The page: texts are escaped, pictures are inline, nothing is fetched."""
    ranking = ranked(results)
    drawn = {name: Markup(svg) for name, svg in pictures(results, ranking).items()}
    return page("sweep.html.j2", _context(results, ranking) | {"figures": drawn})


def table(results: SweepResults) -> str:
    """The ranking and the cost in Markdown, for the terminal."""
    context = _context(results, ranked(results))
    return text("sweep.md.j2", context | {"table": _markdown_table, "line": cell}).rstrip("\n")


def pictures(results: SweepResults, ranking: Ranking) -> dict[str, str]:
    """The page's pictures by name, each an <svg> element; those that would show nothing are left out."""
    drawn = {}
    key = axis_key(results.trials)
    if key and ranking:
        across = figures.scale(key, [trial.overrides[key] for trial in results.trials])
        measures = {name: sections.METRICS[name] for name in dict.fromkeys((results.metric, "accuracy"))}
        points, means = _trial_points(results.trials, key), _setting_points(ranking, key)
        drawn["scores"] = figures.scores(points, means, across, measures, results.majority_baseline)
    if any(len(trial.epochs) for trial in results.trials):
        drawn["curves"] = figures.curves(_curves(results, ranking))
    if savings(results.trials):
        drawn["steps"] = figures.steps(_step_bars(results.trials))
    return drawn


def axis_key(trials: list[Trial]) -> str | None:
    """The key to draw scores against: the learning rate if it was swept, else the first key with several values."""
    values: dict[str, set[str]] = {}
    for trial in trials:
        for key, value in trial.overrides.items():
            values.setdefault(key, set()).add(value)
    several = [key for key in values if len(values[key]) > 1]
    return min(several, key=lambda key: (key == SEED, key != RATE), default=None)


def _context(results: SweepResults, ranking: Ranking) -> dict[str, Any]:
    """The names that both templates use."""
    best = ranking[0][0] if ranking else None
    promoted = best_seed(best, results) if best else None
    saved = savings(results.trials)
    finished = sections.finished_table(results.trials)
    places = [place.against_best for _, place in ranking[1:]]
    key = axis_key(results.trials)
    return {
        "name": results.name,
        "answer": sections.answer(ranking),
        "overview": sections.overview(results),
        "verdict": sections.verdict(results, ranking),
        "warnings": sections.warnings(results, ranking),
        "best": best,
        "scores": _score_cells(best, results.metric) if best else {},
        "baseline": results.majority_baseline,
        "winner": promoted,
        "winner_overrides": [f"{key}={value}" for key, value in promoted.overrides.items()] if promoted else [],
        "ranking": sections.ranking_table(results, ranking),
        "compared": bool(places),
        "over_seeds": any(place.spread for place in places),
        "rows_only": any(place.spread is None for place in places),
        "tested_rows": len(best.finished[0].correct) if best else 0,
        "metric": sections.METRICS[results.metric],
        "finished": finished,
        "winner_line": [line[0] for line in finished[1]].index(str(promoted.number)) if promoted else -1,
        "ended": sections.ended_table(results.trials),
        "cost": sections.cost_rows(results, saved),
        "money": sections.money(results),
        "saved": (f"{saved.share:.0%}", f"of the steps, about {duration(saved.seconds)}") if saved else None,
        "total": len(results.trials),
        "axis": "learning rate" if key == RATE else key,
        "promote": results.promote,
        "command": results.command,
        "shown": SHOWN,
        "number": number,
        "interval": interval,
        "count": count,
    }


def _score_cells(best: Setting, metric: str) -> dict[str, tuple[str, str]]:
    """The best setting's scores beside accuracy, name -> value and what it means."""
    seeds = len(best.finished)
    note = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    second = metric if metric != "accuracy" else "f1"
    name = sections.METRICS[second]
    return {name[0].upper() + name[1:]: (number(best.mean(second), sections.DIGITS[second]), note)}


def _trial_points(trials: list[Trial], key: str) -> pd.DataFrame:
    """value, outcome and scores of every trial; of pruned ones as they were when stopped."""
    return pd.DataFrame(
        [{"value": trial.overrides[key], "outcome": trial.outcome, **_last_scores(trial)} for trial in trials],
        columns=["value", "outcome", *sections.METRICS],
    )


def _last_scores(trial: Trial) -> dict[str, float]:
    if trial.scores:
        return {name: trial.scores[name] for name in sections.METRICS}
    if trial.outcome == "pruned" and len(trial.epochs):
        return {name: float(trial.epochs[name].iloc[-1]) for name in sections.METRICS}
    return {}


def _setting_points(ranking: Ranking, key: str) -> pd.DataFrame:
    """value, series, best, level, seeds and scores of every ranked setting; of every seed where those are the axis."""
    names = [*sections.METRICS, "accuracy_low", "accuracy_high"]
    rows = []
    for setting, place in ranking:
        parts = [setting] if key != SEED else [Setting(t.overrides, [t], [t]) for t in setting.finished]
        others = {name: value for name, value in setting.overrides.items() if name != key}
        for part in parts:
            rows.append(
                {
                    "value": part.overrides[key],
                    "series": sections.title(others) if others else "",
                    "best": place.against_best is None and key != SEED,
                    "level": place.against_best is None or place.against_best.verdict == "tie",
                    "seeds": len(part.finished),
                    **{name: part.mean(name) for name in names},
                }
            )
    return pd.DataFrame(rows, columns=["value", "series", "best", "level", "seeds", *names])


def _curves(results: SweepResults, ranking: Ranking) -> pd.DataFrame:
    """trial, epoch, val_loss, outcome, best, winner, name of every epoch on record."""
    first = ranking[0][0] if ranking else None
    best = {trial.number for trial in first.finished} if first else set()
    promoted = best_seed(first, results).number if first else None
    names = _end_names(results, ranking)
    return pd.concat(
        [
            trial.epochs[["epoch", "val_loss"]].assign(
                trial=trial.number,
                outcome=trial.outcome,
                best=trial.number in best,
                winner=trial.number == promoted,
                name=names.get(trial.number, ""),
            )
            for trial in results.trials
            if len(trial.epochs)
        ],
        ignore_index=True,
    )


def _end_names(results: SweepResults, ranking: Ranking) -> dict[int, str]:
    """Trial number -> what stands at its curve's end: one of each setting if they are few, else first and last."""
    labelled = list(enumerate(ranking, start=1))
    if len(labelled) > figures.LABELLED:
        labelled = [labelled[0], labelled[-1]]
    names = {}
    for place, (setting, _) in labelled:
        values = list(setting.overrides.values())
        name = clip(sections.shown(values[0]), figures.LONGEST) if len(values) == 1 else f"rank {place}"
        names[best_seed(setting, results).number] = name if values else ""
    return names


def _step_bars(trials: list[Trial]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "trial": trial.number,
                "steps": trial.steps,
                "whole": trial.steps * (1 + spared_share(trial, trials)),
                "outcome": trial.outcome,
            }
            for trial in trials
        ]
    )


def _markdown_table(header: list[str], rows: list[list[Cell]], text_columns: int = 1) -> str:
    flat = [[value if isinstance(value, str) else f"{value[0]} ({value[1]})" for value in row] for row in rows]
    return markdown(header, flat, text_columns)
