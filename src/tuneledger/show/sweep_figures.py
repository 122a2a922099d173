"""The pictures of a sweep, each a table in and one <svg> element out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tuneledger.show.svg import BLUE, INK, MUTED, ORANGE, PAPER, drawing, house_style, legend_above, markup
from tuneledger.show.tables import clip, short_number

CATEGORIES = 16  # on an axis: more names are not readable
SERIES = 4  # lines told apart by colour and marker
LABELLED = 6  # curves with a name at their end; of more, only the best and the worst have one
LONGEST = 16  # characters of a name
CALM = 8  # losses farther above the median than so many times what the best is below it are not shown
_LOOKS = [(BLUE, "o", "-"), (ORANGE, "s", (0, (4, 2))), (INK, "^", (0, (1, 1.5))), (MUTED, "D", (0, (6, 2, 1, 2)))]
_ENDS = {"pruned": ("v", MUTED), "diverged": ("X", ORANGE), "failed": ("P", ORANGE)}


@dataclass(frozen=True)
class Scale:
    """A horizontal axis for one swept key.

    Args:
        label: under the axis.
        place: value, as written -> where it lies.
        ticks: where -> what stands there.
        ordered: whether places are numbers, so that a line between them means something.
    """

    label: str
    place: dict[str, float]
    ticks: dict[float, str]
    ordered: bool


def scale(key: str, values: list[str]) -> Scale:
    """The axis for a key's values: learning rates and numbers over a wide range by their logarithm, names in order."""
    distinct = list(dict.fromkeys(values))
    numbers = {value: to_number(value) for value in distinct}
    known = sorted({number for number in numbers.values() if number is not None})
    if None in numbers.values() or len(known) < 2:
        return _categories(key, distinct)
    if known[0] > 0 and (key == "optim.lr" or known[-1] / known[0] >= 30):
        label = "learning rate, log scale" if key == "optim.lr" else f"{key}, log scale"
        place = {value: math.log10(number) for value, number in numbers.items()}
        return Scale(label, place, _log_ticks(known, {v: k for k, v in numbers.items()}), ordered=True)
    if len(known) <= CATEGORIES:
        return replace(_categories(key, sorted(distinct, key=numbers.__getitem__)), ordered=key != "seed")
    ticks = {tick: f"{tick:g}" for tick in _ticks(MaxNLocator(5), known[0], known[-1])}
    return Scale(key, numbers, ticks, ordered=True)


def scores(
    trials: pd.DataFrame, settings: pd.DataFrame, across: Scale, measures: dict[str, str], baseline: float
) -> str:
    """Each measure against the swept key: a large mark is a setting, hollow if it differs from the best by more than
    chance; small ones are its trials if it has several; trials without a score stand on the worse edge.

    Args:
        trials: value, outcome, and the measures, empty where the trial did not get so far.
        settings: value, series (the other swept keys), best (bool), level (bool: best or tied with it), seeds, the
            measures, accuracy_low, accuracy_high.
        across: places of the values; trials at others are left out.
        measures: column -> name; for val_loss less is better.
        baseline: accuracy of always answering the most frequent label.
    """
    trials, settings = (_placed(frame, across) for frame in (trials, settings))
    names = list(dict.fromkeys(settings["series"]))
    apart = len(names) <= SERIES
    with house_style():
        long_names = max(map(len, across.ticks.values())) * len(across.ticks) > 40
        figure, panels = drawing(2.3 * len(measures) + 0.5 + 0.5 * long_names, rows=len(measures))
        for axes, (measure, name) in zip(panels, measures.items(), strict=True):
            if measure == "accuracy":
                axes.axhline(baseline, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="majority")
            for index, series in enumerate(names if apart else [None]):
                chosen = settings[settings["series"] == series] if apart else settings
                shift = (index - (len(names) - 1) / 2) * 0.015 * _width(across) if apart else 0.0
                _series(axes, chosen, measure, _LOOKS[index], shift, series or "", line=apart and across.ordered)
            if settings["seeds"].max() > 1:
                _seeds(axes, trials[trials["outcome"] == "finished"], measure, 0.03 * _width(across))
            if measure == "val_loss":
                axes.set_ylim(_loss_range(pd.concat([trials[measure], settings[measure]])))
            _fates(axes, trials, measure)
            axes.set(ylabel=name, xlim=_limits(across))
        panels[-1].set_xticks(
            list(across.ticks), list(across.ticks.values()),
            rotation=45 if long_names else 0, ha="right" if long_names else "center",
        )  # fmt: skip
        panels[-1].set_xlabel(across.label)
        _one_legend(panels)
        described = " and ".join(measures.values())
        return markup(figure, "sweep-scores", f"{described} of every trial against {across.label}")


def curves(epochs: pd.DataFrame) -> str:
    """Validation loss by epoch, a line for each trial; those of the best setting in blue, the others in grey.

    Args:
        epochs: trial, epoch, val_loss, outcome, best (bool, of the best setting), winner (bool, its best seed), name
            (what its end is labelled with, "" for nothing).
    """
    first, final = epochs["epoch"].min(), max(epochs["epoch"].max(), epochs["epoch"].min() + 1)
    bottom, top = _loss_range(epochs["val_loss"])
    ends = []
    with house_style():
        figure, (axes,) = drawing(3.1)
        for _, curve in epochs.groupby("trial", sort=True):
            last = curve.iloc[-1]
            colour = BLUE if last["best"] else MUTED
            width, alpha = (2.2, 1) if last["winner"] else (0.9, 0.7)
            axes.plot(curve["epoch"], curve["val_loss"], color=colour, linewidth=width, alpha=alpha, zorder=2 + alpha)
            marker, mark = _ENDS.get(last["outcome"], ("o", colour))
            height = min(last["val_loss"], top) if math.isfinite(last["val_loss"]) else top
            axes.plot(
                last["epoch"], height, marker, color=mark, markersize=5, markeredgewidth=0, zorder=4, clip_on=False
            )
            if last["name"]:
                ends.append((height, last["name"], colour))
        axes.set(xlabel="epoch", ylabel="validation loss (nats)", ylim=(bottom, top))
        room = 0.03 + 0.022 * max((len(name) for _, name, _ in ends), default=0)
        axes.set_xlim(first - 0.04 * (final - first), final + room / (1 - room) * (final - first))
        axes.set_xticks(_ticks(MaxNLocator(6, integer=True), first, final))
        _end_labels(axes, ends, final + 0.025 * (final - first), bottom, top)
        for outcome in [outcome for outcome in _ENDS if outcome in set(epochs["outcome"])]:
            marker, mark = _ENDS[outcome]
            axes.plot([], [], marker, color=mark, markersize=5, markeredgewidth=0, label=outcome)
        if axes.get_legend_handles_labels()[0]:
            legend_above(axes, 3)
        return markup(figure, "sweep-curves", "Validation loss after each epoch, a line for each trial")


def steps(trials: pd.DataFrame) -> str:
    """Steps that each trial took, in front of those that it would have taken without pruning.

    Args:
        trials: trial, steps, whole, outcome.
    """
    with house_style():
        figure, (axes,) = drawing(2.5)
        axes.bar(trials["trial"], trials["whole"], facecolor="none", edgecolor=MUTED, linewidth=0.7, label="left out")
        axes.bar(trials["trial"], trials["steps"], color=BLUE, linewidth=0, label="taken")
        axes.set(xlabel="trial", ylabel="steps", xlim=(trials["trial"].min() - 0.6, trials["trial"].max() + 0.6))
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        legend_above(axes, 2)
        return markup(figure, "sweep-steps", "Steps that each trial took, and those that pruning left out")


def to_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _ticks(locator: MaxNLocator, low: float, high: float) -> list[float]:
    return [tick for tick in locator.tick_values(low, high).tolist() if low <= tick <= high]


def _categories(key: str, values: list[str]) -> Scale:
    shown = values[:CATEGORIES]
    label = key if len(shown) == len(values) else f"{key} (the first {CATEGORIES} of {len(values)} values)"
    place = {value: float(index) for index, value in enumerate(shown)}
    return Scale(label, place, {at: clip(value, LONGEST) for value, at in place.items()}, ordered=False)


def _log_ticks(known: list[float], written: dict[float, str]) -> dict[float, str]:
    """The values themselves where they are few and apart, else powers of ten and what lies between."""
    low, high = math.log10(known[0]), math.log10(known[-1])
    places = [math.log10(number) for number in known]
    if len(known) <= 7 and min(b - a for a, b in pairwise(places)) >= 0.11 * (high - low):
        return {place: clip(written[number], LONGEST) for place, number in zip(places, known, strict=True)}
    for mantissas in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        ticks = [m * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for m in mantissas]
        inside = [tick for tick in ticks if known[0] <= tick * 1.0001 and tick <= known[-1] * 1.0001]
        if len(inside) >= 3:
            break
    thin = inside[:: math.ceil(len(inside) / 7)]
    return {math.log10(tick): short_number(tick) for tick in thin}


def _placed(frame: pd.DataFrame, across: Scale) -> pd.DataFrame:
    return frame.assign(x=frame["value"].map(across.place)).dropna(subset="x").sort_values("x", kind="stable")


def _width(across: Scale) -> float:
    return (max(across.place.values()) - min(across.place.values())) or 1.0


def _limits(across: Scale) -> tuple[float, float]:
    margin = 0.1 * _width(across)
    return min(across.place.values()) - margin, max(across.place.values()) + margin


def _series(axes: Axes, settings: pd.DataFrame, measure: str, look, shift: float, name: str, *, line: bool) -> None:
    colour, marker, style = look
    x = settings["x"] + shift
    if measure == "accuracy":
        axes.vlines(x, settings["accuracy_low"], settings["accuracy_high"], color=colour, linewidth=1.1, alpha=0.7)
    if line and settings["x"].nunique() > 1:
        axes.plot(x, settings[measure], color=colour, linewidth=1.2, linestyle=style, alpha=0.7)
    look = {"color": colour, "markeredgewidth": 1.3, "linestyle": "none", "marker": marker}
    level = settings["level"].astype(bool)
    axes.plot([], [], **look, markersize=5, label=clip(name, 34))
    axes.plot(x[level], settings[measure][level], **look, markersize=6, zorder=3)
    axes.plot(x[~level], settings[measure][~level], **look, markersize=6, zorder=3, markerfacecolor=PAPER)
    best = settings["best"].astype(bool)
    axes.plot(x[best], settings[measure][best], **look, markersize=11, markerfacecolor="none")


def _seeds(axes: Axes, finished: pd.DataFrame, measure: str, shift: float) -> None:
    """Beside the marks of their settings, so as not to cover them."""
    axes.plot(
        finished["x"] + shift, finished[measure], "o", color=MUTED, markersize=3, markeredgewidth=0, label="one seed"
    )


def _fates(axes: Axes, trials: pd.DataFrame, measure: str) -> None:
    """Pruned trials where they were; diverged and failed ones on the worse edge, since they have no score."""
    bottom, top = axes.get_ylim()
    worst = top if measure == "val_loss" else bottom
    for outcome, (marker, colour) in _ENDS.items():
        here = trials[trials["outcome"] == outcome]
        if len(here):
            heights = here[measure].astype(float).fillna(worst).clip(bottom, top)
            axes.plot(
                here["x"], heights, marker, color=colour, markersize=5, markeredgewidth=0, label=outcome, clip_on=False,
                zorder=6,
            )  # fmt: skip
    axes.set_ylim(bottom, top)


def _one_legend(panels: list[Axes]) -> None:
    """Above the first panel, for all of them."""
    entries: dict[str, object] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    named = {name: handle for name, handle in entries.items() if name}
    columns = 2 if max(map(len, named), default=0) > 12 else 3
    panels[0].legend(
        list(named.values()), list(named), loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.6,
        handlelength=1.4, columnspacing=1.2,
    )  # fmt: skip


def _loss_range(losses: pd.Series) -> tuple[float, float]:
    """What to show: all of it but for losses that would press the others flat."""
    known = losses.to_numpy(dtype=float)
    known = known[np.isfinite(known)]
    if not len(known):
        return 0.0, 1.0
    low, middle = known.min(), np.median(known)
    high = known[known <= middle + CALM * max(middle - low, 0.05 * middle)].max()
    margin = 0.06 * ((high - low) or high or 1.0)
    return float(low - margin), float(high + margin)


def _end_labels(axes: Axes, ends: list[tuple[float, str, str]], x: float, bottom: float, top: float) -> None:
    """Names at the right of their curves, moved apart where they would cover each other."""
    gap = 0.062 * (top - bottom)
    ends = sorted(ends)
    heights: list[float] = []
    for height, _, _ in ends:
        heights.append(max(height, heights[-1] + gap) if heights else max(height, bottom + gap / 2))
    over = max(0.0, heights[-1] - (top - gap / 2)) if heights else 0.0
    for index in reversed(range(len(heights))):
        ceiling = heights[index + 1] - gap if index + 1 < len(heights) else heights[index] - over
        heights[index] = min(heights[index], ceiling)
    for height, (_, name, colour) in zip(heights, ends, strict=True):
        axes.text(x, height, name, va="center", ha="left", color=colour, fontsize=9)
