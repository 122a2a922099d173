"""The page of a few learning rates: descent on a loss surface, the stability edge, and the whole encoder beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from tuneledger.show.page import page
from tuneledger.show.sections import Cell
from tuneledger.show.svg import BLUE, INK, MUTED, ORANGE, drawing, house_style, legend_above, markup
from tuneledger.show.tables import ABSENT, interval, number, short_number

Look = tuple[str, str, Any]  # colour, marker, line style

LEVELS = 16  # contours, evenly apart in a bowl
MARKERS = 50  # on a line: more run into each other
RESOLUTION = 1e-6  # of a loss in the files
HIGHEST_FACTOR = 2.4  # in the picture of the edge; beyond it nothing new happens
LOOKS = [(ORANGE, "s", "-"), (BLUE, "o", "-"), (MUTED, "^", "-")]  # of the rates asked for
BEYOND = (INK, "x", (0, (2, 1.5)))
CONFIGURED = (INK, "D", "-")
COLOURS = {ORANGE: "orange", BLUE: "blue", MUTED: "muted", INK: "ink"}  # as the page's CSS calls them
MARKS = {  # outlines in a square of 10
    "s": "M1 1h8v8h-8z",
    "o": "M5 1a4 4 0 1 0 .01 0z",
    "^": "M5 1l4.5 8h-9z",
    "x": "M1 2.4 2.4 1 5 3.6 7.6 1 9 2.4 6.4 5 9 7.6 7.6 9 5 6.4 2.4 9 1 7.6 3.6 5z",
    "D": "M5 .5 9.5 5 5 9.5 .5 5z",
}
HEAD = {"direct": "closes in", "zigzag": "closes in, in a zigzag", "unstable": "does not settle"}
ENCODER = {"diverged": "diverges", "chance": "no clear gain yet", "learns": "learns"}
EXPECTED = {
    "direct": "less than half, it should come straight in near the minimum",
    "zigzag": "more than half, it should zigzag near the minimum but close in",
    "unstable": "it should zigzag near the minimum and never settle",
}


@dataclass(frozen=True)
class Descent:
    """The contents of results/descent.

    Args:
        paths: rate, iteration, loss, accuracy (validation), x, y (place on the plane; the minimum is at 0, 0).
        surface: x, y, loss on that plane.
        edge: rate, loss after the same number of iterations, and the factor by which one iteration near the minimum
            multiplies the distance along the sharpest direction.
        encoder: rate, step, loss.
        summary: summary.json.
    """

    paths: pd.DataFrame
    surface: pd.DataFrame
    edge: pd.DataFrame
    encoder: pd.DataFrame
    summary: dict[str, Any]


def html(values: Descent) -> str:
    """The page: pictures are inline, nothing is fetched, equal values give equal bytes."""
    return page("descent.html.j2", {"descent": context(values)})


def section(values: Descent) -> str:
    """What the page shows below its head, for the illustrated report."""
    return page("descent_section.html.j2", {"descent": context(values)})


def context(values: Descent) -> dict[str, Any]:
    """The names that the templates use below `descent`."""
    summary = values.summary
    return {
        "summary": summary,
        "rates": _listed(_asked(summary)),
        "highest": max(_asked(summary)),
        "share": _percent(max(_asked(summary)) / summary["edge"]),
        "tried": len(values.edge),
        "gap": f"{100 * abs(summary['measured_edge'] / summary['edge'] - 1):.2g} %",
        "diverged": sum(run["outcome"] == "diverged" for run in summary["encoder"]["runs"]),
        "ended": any(run["loss"] is None for run in summary["encoder"]["runs"]),
        "verdict": verdict(summary),
        "table": (("Learning rate", "Of the edge", "Linear head", "Whole encoder"), rows(summary)),
        "paths": [_path(values, run) for run in summary["rates"]],
        "every": _every(summary),
        "edge": edge_facts(values),
        "at_start": at_start(summary),
        "runs": [_run(run, summary) for run in summary["encoder"]["runs"]],
        "figures": {name: Markup(svg) for name, svg in pictures(values).items()},
        "digits": digits,
        "number": number,
    }


def pictures(values: Descent) -> dict[str, str]:
    """The page's pictures by name, each an <svg> element for a page (`svg.standalone` makes a file of it)."""
    return {
        "descent-surface": surface_picture(values),
        "descent-loss": loss_picture(values),
        "descent-edge": edge_picture(values),
        "descent-encoder": encoder_picture(values),
    }


def verdict(summary: dict[str, Any]) -> str:
    """What comes of the rates that were asked for, on the head and on the encoder."""
    asked = _asked(summary)
    over = {run["rate"] for run in summary["rates"] if run["regime"] == "unstable"}
    bad = {run["rate"] for run in summary["encoder"]["runs"] if run["outcome"] == "diverged"}
    head = _parted(
        asked,
        over,
        ("lies below the stability edge, where descent settles", "lie below the stability edge, where descent settles"),
        ("lies beyond the stability edge, where it cannot", "lie beyond the stability edge, where it cannot"),
    )
    encoder = _parted(asked, bad, ("does not diverge", "do not diverge"), ("diverges", "diverge"))
    return f"On the head, {head}. On the whole encoder under AdamW, {encoder}."


def rows(summary: dict[str, Any]) -> list[list[Cell]]:
    """Learning rate, its share of the edge, what it does to the head, what it does to the encoder."""
    head = {run["rate"]: run for run in summary["rates"]}
    encoder = {run["rate"]: run for run in summary["encoder"]["runs"]}
    return [
        [
            _name(rate, summary),
            _percent(rate / summary["edge"]) if rate in head else ABSENT,
            _head_cell(head[rate]) if rate in head else ABSENT,
            _encoder_cell(encoder[rate]) if rate in encoder else ABSENT,
        ]
        for rate in dict.fromkeys([*head, *encoder])
    ]


def path_text(run: dict[str, Any], summary: dict[str, Any]) -> str:
    """What is to be expected of a rate by the edge, and what its path on the head did."""
    drop = summary["start_loss"] - run["loss"]
    whole = summary["start_loss"] - summary["lowest_loss"]
    way = f"{100 * drop / whole:.0f} % of the way down" if drop > 0 else "no lower than at the start"
    rose = f"the loss rose {_times(run['rises'])}" if run["rises"] else "the loss never rose"
    turned = f"turned back across the valley {_times(run['turns'])}" if run["turns"] else "never turned back"
    course = f"In {summary['iterations']} iterations it {turned}"
    expected = f"At {_percent(run['rate'] / summary['edge'])} of the edge, {EXPECTED[run['regime']]}"
    return f"{expected}. {course}, {rose}, and it ended at {run['loss']:.4f}, {way}."


def at_start(summary: dict[str, Any]) -> str:
    """How the curvature where descent begins compares with that at the minimum."""
    if summary["start_edge"] < summary["edge"]:
        return (
            "The surface is more sharply curved at the start than at the minimum, so that a rate between the two edges "
            "can overshoot at first and settle later."
        )
    return (
        "The surface is less sharply curved at the start than at the minimum, so that a rate between the two edges can "
        "go well at first and fail near the minimum."
    )


def edge_facts(values: Descent) -> list[list[Cell]]:
    """The edge as computed, as measured and at the start, and the rate that got farthest down."""
    summary, best = values.summary, values.edge.loc[values.edge["loss"].idxmin()]
    gap = summary["measured_edge"] / summary["edge"] - 1
    return [
        [
            "Computed, 2 / λ",
            (digits(summary["edge"]), f"λ = {digits(summary['curvature'])}: largest eigenvalue of the Hessian"),
        ],
        [
            "Measured, by bisection",
            (
                digits(summary["measured_edge"]),
                f"{100 * abs(gap):.2g} % {'above' if gap > 0 else 'below'} the computed one",
            ),
        ],
        [
            "2 / λ at the start",
            (digits(summary["start_edge"]), f"λ = {digits(summary['start_curvature'])} where all weights are zero"),
        ],
        [
            f"Lowest after {summary['iterations']} iterations",
            (
                f"rate {best['rate']:.2g}",
                f"{_percent(best['rate'] / summary['edge'])} of the edge; loss {best['loss']:.4f}",
            ),
        ],
    ]


def run_text(run: dict[str, Any], summary: dict[str, Any]) -> str:
    """What a rate did to the whole encoder, in the terms of the rule."""
    encoder = summary["encoder"]
    step = f"A step moves a weight by about {_multiple(run['rate'] / encoder['weight'], 'its typical size')}"
    if run["moved"] is not None:
        step += f"; all in all the weights moved by {_multiple(run['moved'], 'their own length')}"
    if run["loss"] is None:
        return f"{step}. The loss is no longer a number: diverged."
    mean = f"The last {encoder['last']} losses have a mean of {run['loss']:.3f} ± {run['error']:.3f}"
    ends = {
        "diverged": f"above the threshold of {encoder['threshold']:.3f}: diverged",
        "chance": f"not clearly below chance, {encoder['chance']:.3f}: nothing lost, no clear gain yet",
        "learns": f"clearly below chance, {encoder['chance']:.3f}: it learns",
    }
    return f"{step}. {mean}, {ends[run['outcome']]}."


def surface_picture(values: Descent) -> str:
    """The loss on the plane as contours, and the paths seen from above."""
    summary = values.summary
    grid = values.surface.pivot(index="y", columns="x", values="loss")
    height = np.maximum(grid.to_numpy() - summary["lowest_loss"], RESOLUTION)
    with house_style(), _whole_lines():
        figure, (axes,) = drawing(3.9)
        for level in height.max() * (np.arange(1, LEVELS) / LEVELS) ** 2:
            # Each area lies on those below it, so that their tints add up and no seams show.
            axes.contourf(grid.columns, grid.index, height, [level, height.max() * 2], colors=[MUTED], alpha=0.045)
            axes.contour(grid.columns, grid.index, height, [level], colors=[MUTED], linewidths=0.5, alpha=0.6)
        _paths(axes, values, lambda path: (path["x"], path["y"]))
        first = values.paths.iloc[0]
        axes.plot(first["x"], first["y"], "o", color=INK, markersize=8, markerfacecolor="none", zorder=6)
        axes.plot(0, 0, "+", color=INK, markersize=11, markeredgewidth=1.8, zorder=6)
        axes.annotate("start", (first["x"], first["y"]), (9, -10), textcoords="offset points", color=INK)
        axes.annotate("minimum", (0, 0), (8, 13), textcoords="offset points", color=INK)
        axes.set(xlabel="across the valley", ylabel="along the valley")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(visible=False)
        _legend(axes)
        return markup(figure, "descent-surface", "Contours of the head's loss with the path of each learning rate")


def loss_picture(values: Descent) -> str:
    """How far each path's loss lies above the minimum, by iteration."""
    lowest = values.summary["lowest_loss"]
    with house_style(), _whole_lines():
        figure, (axes,) = drawing(3.9)
        axes.set(xlabel="iteration", ylabel="loss above the minimum (nats)", yscale="log")
        _paths(axes, values, lambda path: (path["iteration"], np.maximum(path["loss"] - lowest, RESOLUTION)))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _plain_log(axes.yaxis)
        _legend(axes)
        return markup(figure, "descent-loss", "Loss above the minimum against iterations of gradient descent")


def edge_picture(values: Descent) -> str:
    """The loss that each rate leads to, over the factor that an iteration multiplies a distance by."""
    summary, tried = values.summary, values.edge
    curvature, lowest = summary["curvature"], summary["lowest_loss"]
    with house_style():
        figure, (axes, below) = drawing(4.4, rows=2, ratios=[1, 1])
        reached = np.maximum(tried["loss"] - lowest, RESOLUTION)
        axes.plot(tried["rate"], reached, color=MUTED, linewidth=1.2, marker=".", markersize=4)
        axes.set(xscale="log", yscale="log", ylabel="loss above minimum")
        fine = np.geomspace(tried["rate"].min(), tried["rate"].max(), 400)
        below.plot(fine, abs(1 - fine * curvature), color=MUTED, linewidth=1.2)
        below.plot(tried["rate"], tried["factor"].abs(), ".", color=MUTED, markersize=5)
        below.axhline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        below.set(ylim=(0, HIGHEST_FACTOR), xlim=(fine[0], fine[-1]), xlabel="learning rate", ylabel="factor")
        for panel in (axes, below):
            panel.axvspan(1 / curvature, summary["edge"], color=MUTED, alpha=0.14, linewidth=0)
            panel.axvline(summary["edge"], color=INK, linewidth=1)
        for run, (colour, marker, _) in zip(summary["rates"], looks(summary), strict=True):
            at = max(run["loss"] - lowest, RESOLUTION)
            axes.plot(run["rate"], at, marker, color=colour, markersize=7, label=digits(run["rate"]))
            below.plot(run["rate"], abs(1 - run["rate"] * curvature), marker, color=colour, markersize=7)
        below.plot(summary["measured_edge"], 1, "o", color=INK, markersize=8, markerfacecolor="none")
        _plain_log(axes.yaxis)
        _plain_log(below.xaxis)
        _legend(axes)
        return markup(figure, "descent-edge", "Loss reached, and factor of an iteration, against the learning rate")


def encoder_picture(values: Descent) -> str:
    """Loss of each optimizer step of the whole encoder, with the means that it is judged by."""
    encoder, last = values.summary["encoder"], values.encoder["step"].max()
    judged = (max(0, last - encoder["last"]) + 0.5, last + 0.5)
    with house_style():
        figure, (axes,) = drawing(3.9)
        axes.axhline(encoder["threshold"], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.axvspan(*judged, color=MUTED, alpha=0.14, linewidth=0)
        for run, (colour, marker, _) in zip(encoder["runs"], encoder_looks(values.summary), strict=True):
            curve = values.encoder[values.encoder["rate"] == run["rate"]]
            axes.plot(
                curve["step"], curve["loss"], color=colour, linewidth=0.9, marker=marker, markersize=2.6,
                label=digits(run["rate"]),
            )  # fmt: skip
            if run["loss"] is None:
                end, place = curve["step"].max(), axes.get_xaxis_transform()
                axes.plot(end, 0.96, "X", color=colour, markersize=8, transform=place)
            else:
                axes.hlines(run["loss"], *judged, color=colour, linewidth=3)
        axes.set(xlabel="optimizer step", ylabel="loss of the batch (nats)", yscale="log", xlim=(0, last + 1))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _plain_log(axes.yaxis)
        _legend(axes)
        return markup(figure, "descent-encoder", "Loss of each AdamW step of the whole encoder at each learning rate")


def looks(summary: dict[str, Any]) -> list[Look]:
    """Of the paths on the head, in the summary's order."""
    asked = iter(LOOKS)
    return [BEYOND if run["rate"] == summary["beyond"] else next(asked) for run in summary["rates"]]


def encoder_looks(summary: dict[str, Any]) -> list[Look]:
    """Of the runs of the encoder: a rate looks as it does on the head."""
    known = {run["rate"]: look for run, look in zip(summary["rates"], looks(summary), strict=True)}
    return [known.get(run["rate"], CONFIGURED) for run in summary["encoder"]["runs"]]


def digits(value: float) -> str:
    """Three significant digits."""
    return short_number(float(f"{value:.3g}"))


def _asked(summary: dict[str, Any]) -> list[float]:
    """The rates from the settings; the one beyond the edge is there to show what the edge means."""
    return [run["rate"] for run in summary["rates"] if run["rate"] != summary["beyond"]]


def _name(rate: float, summary: dict[str, Any]) -> str:
    if rate == summary["beyond"]:
        return f"{digits(rate)}, past the edge"
    return f"{short_number(rate)}, as configured" if rate == summary["encoder"]["configured"] else short_number(rate)


def _paths(axes: Axes, values: Descent, places: Callable[[pd.DataFrame], tuple[pd.Series, pd.Series]]) -> None:
    """A line for each path, that of the lowest rate on top, under ids by which the page shows it point by point."""
    summary = values.summary
    falling = sorted((run["rate"] for run in summary["rates"]), reverse=True)
    for index, (run, (colour, marker, style)) in enumerate(zip(summary["rates"], looks(summary), strict=True)):
        path = values.paths[values.paths["rate"] == run["rate"]]
        (line,) = axes.plot(
            *places(path), color=colour, linewidth=1, linestyle=style, marker=marker, markersize=2.8,
            markevery=_every(summary), label=digits(run["rate"]), zorder=3 + falling.index(run["rate"]) / 10,
        )  # fmt: skip
        line.set_gid(f"path-{index}")


def _every(summary: dict[str, Any]) -> int:
    """Iterations from marker to marker."""
    return math.ceil(summary["iterations"] / MARKERS)


def _whole_lines():
    """Context in which no point of a line is left out for looking the same: the page counts on them."""
    return mpl.rc_context({"path.simplify": False})


def _legend(axes: Axes) -> None:
    legend_above(axes, len(axes.get_legend_handles_labels()[1]))


def _plain_log(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 where they are few, else at powers of ten, as plain numbers."""
    low, high = axis.get_view_interval()
    few = math.log10(high / low) < 1.8
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axis.set_minor_locator(NullLocator())


def _path(values: Descent, run: dict[str, Any]) -> dict[str, Any]:
    """One path of descent as the page lists it, with the losses that it counts through."""
    losses = values.paths.loc[values.paths["rate"] == run["rate"], "loss"]
    place = values.summary["rates"].index(run)
    return {
        **_entry(_name(run["rate"], values.summary), looks(values.summary)[place]),
        "text": path_text(run, values.summary),
        "losses": [number(value, 4) for value in losses],
    }


def _run(run: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    place = summary["encoder"]["runs"].index(run)
    return {**_entry(_name(run["rate"], summary), encoder_looks(summary)[place]), "text": run_text(run, summary)}


def _entry(name: str, look: Look) -> dict[str, str]:
    colour, marker, _ = look
    return {"name": name, "colour": COLOURS[colour], "mark": MARKS[marker]}


def _head_cell(run: dict[str, Any]) -> Cell:
    spread = interval(run["accuracy_low"], run["accuracy_high"], 2)
    return HEAD[run["regime"]], f"loss {run['loss']:.4f}, accuracy {run['accuracy']:.3f} ({spread})"


def _encoder_cell(run: dict[str, Any]) -> Cell:
    return ENCODER[run["outcome"]], "not a number" if run[
        "loss"
    ] is None else f"loss {run['loss']:.3f} ± {run['error']:.3f}"


def _parted(rates: list[float], bad: set[float], good_ends: tuple[str, str], bad_ends: tuple[str, str]) -> str:
    """Rates that are not in `bad` and what they do, then those that are; the ends are for one and for several."""
    good = [rate for rate in rates if rate not in bad]
    rest = [rate for rate in rates if rate in bad]
    parts = [(some, ends[len(some) > 1]) for some, ends in ((good, good_ends), (rest, bad_ends)) if some]
    return ", and ".join(f"{_listed(some)} {end}" for some, end in parts)


def _listed(rates: list[float]) -> str:
    """0.1, 0.05 and 0.01"""
    names = [short_number(rate) for rate in rates]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _multiple(share: float, whole: str) -> str:
    return f"{share:.2g} times {whole}" if share >= 1 else f"{_percent(share)} of {whole}"


def _percent(share: float) -> str:
    figure = f"{100 * share:.2g}" if share < 0.995 else f"{100 * share:.0f}"
    return f"{figure}\N{NO-BREAK SPACE}%"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")
