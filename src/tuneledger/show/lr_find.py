"""The page of a learning-rate range test: the loss while the rate rises, and the rates that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from tuneledger.judge.lr_range import LEARNED, MARGIN, NARROWEST
from tuneledger.show.page import page
from tuneledger.show.sections import Cell
from tuneledger.show.svg import BLUE, MUTED, ORANGE, PAPER, drawing, house_style, legend_above, markup
from tuneledger.show.tables import number, short_number

RULES = (
    f"The range starts where the smoothed loss has fallen by {LEARNED:.0%} of its greatest fall. It ends {MARGIN:g} "
    f"times below the rate that diverges, or {NARROWEST:g} times above its start if that is more, but not beyond that "
    "rate."
)


@dataclass(frozen=True)
class RangeTest:
    """The contents of results/lr_find: one ramp and what follows from it.

    Args:
        curve: step, lr, batch_loss, loss (of the judging examples, after the step), smoothed; a line a step taken.
        model, data: their names.
        seed: of the order of batches and of dropout.
        batch_size: examples an optimizer step.
        judging_rows: validation examples on which each step is judged.
        min_lr, max_lr, steps: the ramp as asked for.
        start: loss of the judging examples before the first step.
        chance: loss of always giving the frequencies of their labels as probabilities.
        low, high: ends of the range to try, None if none follows.
        reason: why none follows, else "".
        lowest: rate at which the smoothed loss is lowest, None if it never falls.
        diverges: rate from which the smoothed loss is back at the start, None if it stays below.
        command: the sweep over the range, "" without one.
    """

    curve: pd.DataFrame
    model: str
    data: str
    seed: int
    batch_size: int
    judging_rows: int
    min_lr: float
    max_lr: float
    steps: int
    start: float
    chance: float
    low: float | None
    high: float | None
    reason: str
    lowest: float | None
    diverges: float | None
    command: str


def html(test: RangeTest) -> str:
    """The page: pictures are inline, nothing is fetched."""
    return page("lr_find.html.j2", {"lr_find": context(test)})


def section(test: RangeTest) -> str:
    """What the page says, without its head, to be part of another."""
    return page("lr_find_section.html.j2", {"lr_find": context(test)})


def context(test: RangeTest) -> dict[str, Any]:
    """The names that the templates use below `lr_find`."""
    return {
        "model": test.model,
        "data": test.data,
        "seed": test.seed,
        "range": range_text(test),
        "reason": test.reason,
        "diverges": rate(test.diverges) if test.diverges else "",
        "below_chance": bool(test.lowest and _at(test, test.lowest) < test.chance),
        "chance": number(test.chance),
        "judging_rows": test.judging_rows,
        "facts": facts(test),
        "rules": RULES,
        "command": test.command,
        "figures": {name: Markup(svg) for name, svg in pictures(test).items()},
    }


def pictures(test: RangeTest) -> dict[str, str]:
    """The page's pictures by name, each an <svg> element."""
    return {"lr_find-curve": curve(test)}


def facts(test: RangeTest) -> list[list[Cell]]:
    """What was measured, and how."""
    taken, last = len(test.curve), rate(test.curve["lr"].iloc[-1])
    ended = "" if taken == test.steps else "; it ended when the loss had blown up"
    return [
        ["Loss before the ramp", (number(test.start), f"of the {test.judging_rows} held-out examples")],
        ["Lowest loss", _lowest(test)],
        ["Chance", (number(test.chance), "always giving the frequencies of their labels")],
        [
            "Diverges at",
            (rate(test.diverges), "from here on what was gained is lost") if test.diverges else f"nowhere up to {last}",
        ],
        [
            "Ramp",
            (
                f"{rate(test.min_lr)} to {last}",
                f"{taken} of {test.steps} steps, {test.batch_size} examples each, seed {test.seed}{ended}",
            ),
        ],
    ]


def range_text(test: RangeTest) -> str:
    """5e-5 to 5e-4, or "" without a range."""
    return f"{rate(test.low)} to {rate(test.high)}" if test.low and test.high else ""


def rate(value: float) -> str:
    """Two digits: 3e-5, 1.2e-4, 0.25."""
    return short_number(float(f"{value:.2g}"))


def curve(test: RangeTest) -> str:
    """Loss against the rate of the step, with the range to try and the rate that diverges."""
    with house_style():
        figure, (axes,) = drawing(3.2)
        rates = test.curve["lr"]
        axes.axhline(test.start, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        axes.axhline(test.chance, color=MUTED, linewidth=1, linestyle=(0, (6, 2, 1, 2)), gid="chance")
        axes.plot(rates, test.curve["batch_loss"], color=MUTED, linewidth=0.6, alpha=0.6, label="batch")
        axes.plot(rates, test.curve["loss"], color=BLUE, linewidth=0.7, marker="o", markersize=1.8, label="held out")
        axes.plot(rates, test.curve["smoothed"], color=BLUE, linewidth=2, label="smoothed", gid="smoothed")
        axes.set(
            xscale="log", xlim=(rates.iloc[0], 2 * rates.iloc[-1]), ylim=_limits(test),
            xlabel="learning rate, log scale", ylabel="cross-entropy (nats)",
        )  # fmt: skip
        axes.xaxis.set_major_locator(LogLocator(numticks=9))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        if test.low and test.high:
            axes.axvspan(test.low, test.high, color=BLUE, alpha=0.14, linewidth=0, gid="range")
            for end in (test.low, test.high):
                _label(axes, end, rate(end), "right", BLUE, 0.98)
        if test.diverges:
            axes.axvline(test.diverges, color=ORANGE, linewidth=1.4, linestyle=(0, (4, 2)), gid="edge")
            _label(axes, test.diverges, f"diverges\n{rate(test.diverges)}", "left", ORANGE, 0.14)
        legend_above(axes, 3)
        return markup(figure, "lr_find-curve", "Loss against the rising learning rate, with the range to try shaded")


def _lowest(test: RangeTest) -> Cell:
    if test.lowest is None:
        return "the one before the ramp"
    return number(_at(test, test.lowest)), f"smoothed, at {rate(test.lowest)}"


def _at(test: RangeTest, lr: float) -> float:
    """The smoothed loss at a rate of the ramp."""
    return float(test.curve["smoothed"][(test.curve["lr"] - lr).abs().idxmin()])


def _limits(test: RangeTest) -> tuple[float, float]:
    """All that lies below the start, and as much above it: how far a diverged loss goes says nothing."""
    below = min(test.curve[["loss", "smoothed"]].min().min(), test.chance)
    depth = max(test.start - below, 0.15 * test.start)
    return test.start - 1.15 * depth, test.start + 1.5 * depth


def _label(axes: Axes, at: float, name: str, side: str, colour: str, height: float) -> None:
    """A name beside the upright line at a rate, on its left or right; height is a share of the picture's."""
    gap = 3 if side == "left" else -3
    axes.annotate(
        name, (at, height), xycoords=axes.get_xaxis_transform(), xytext=(gap, 0), textcoords="offset points",
        ha=side, va="top", color=colour, fontsize=9,
        bbox={"facecolor": PAPER, "linewidth": 0, "alpha": 0.75, "pad": 1},
    )  # fmt: skip
