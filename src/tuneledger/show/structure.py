"""How the model learns the structure of the data: a page with the validation examples after each epoch.

matplotlib draws the planes. The points are put in as references to one symbol for each label, a few characters each,
of which a script can move a thousand from one epoch's place to the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from tuneledger.show.page import page
from tuneledger.show.svg import BLUE, INK, MUTED, ORANGE, WIDTH, drawing, house_style, legend_above, markup
from tuneledger.show.tables import count, interval, number

FRAMES = 20  # on the page, which then weighs less than 1 MB; of more epochs evenly spaced ones
PANELS = 12  # in the picture of all frames side by side
LONGEST = 22  # characters of a label
Look = tuple[str, float, str, str]
# Marker, size in points, colour, and the colour as the page has it. Every one stands out from light and dark paper
# (contrast of 3 at least), and where two colours come close their shapes are far apart.
_LOOKS: list[Look] = [
    ("o", 5.2, BLUE, "var(--blue)"),
    ("s", 4.6, ORANGE, "var(--orange)"),
    ("^", 5.6, "#009e73", "#009e73"),
    ("D", 4.2, INK, "var(--ink)"),
    ("P", 5.8, "#c2699c", "#c2699c"),
    ("v", 5.6, "#8f8a1e", "#8f8a1e"),
    ("*", 7.6, "#7d72d8", "#7d72d8"),
    ("X", 5.8, "#b07d52", "#b07d52"),
]
_REST = ("o", 3.2, MUTED, "var(--muted)")
_RING = 4.0  # radius in points
_TABLE = ("Frame", "Separability", "Accuracy", "Wrong")
_LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "z"}


@dataclass(frozen=True)
class Structure:
    """The examples in one plane, before training (epoch 0) and after each epoch.

    Args:
        points: epoch, row, x, y, label, predicted (names); the same rows in the same order for each epoch.
        frames: epoch, separability and accuracy, both with _low and _high; a line for each epoch.
        summary: labels (names in the task's order), rows, width (of a representation), folds, explained (share of the
            last frame's variance along x and y), majority_baseline; won, lost, p: rows that the probe gets right only
            after the last epoch, only before training, and whether that is chance, by McNemar's test.
    """

    points: pd.DataFrame
    frames: pd.DataFrame
    summary: dict[str, Any]


def html(values: Structure) -> str:
    """The page: texts from the data are escaped, pictures are inline, nothing is fetched."""
    return page("structure.html.j2", {"structure": context(values)})


def section(values: Structure) -> str:
    """What the page says, without its head, to be part of another."""
    return page("structure_section.html.j2", {"structure": context(values)})


def pictures(values: Structure) -> dict[str, str]:
    """The frames side by side, and their scores, each an <svg> element."""
    return {"structure-frames": side_by_side(values), "structure-scores": scores(values)}


def context(values: Structure) -> dict[str, Any]:
    """What structure_section.html.j2 shows."""
    shown = groups(values)
    summary, frames = values.summary, values.frames
    drawn = _evenly(frames["epoch"].tolist(), FRAMES)
    return {
        "figures": {"structure-scores": Markup(scores(values))},
        "symbols": Markup(_symbols("structure-", _looks(shown))),
        "groups": [
            {"name": name, "rows": count(rows), "symbol": f"structure-{index}"}
            for index, (name, rows) in enumerate(shown)
        ],
        "frames": [_frame(values, epoch) | {"picture": Markup(frame_picture(values, epoch))} for epoch in drawn],
        "table": (_TABLE, [list(_frame(values, epoch).values()) for epoch in frames["epoch"]]),
        "all_frames": len(frames),
        "rows": count(summary["rows"]),
        "width": summary["width"],
        "folds": summary["folds"],
        "explained": [_percent(share) for share in summary["explained"]],
        "stretched": stretched(values.points),
        "baseline": number(summary["majority_baseline"]),
        "verdict": verdict(values),
    }


def groups(values: Structure) -> list[tuple[str | None, int]]:
    """Labels with a look of their own, in the task's order, and their rows; of many labels the most frequent ones.

    The rows of all others come last, under None.
    """
    first = values.points[values.points["epoch"] == values.frames["epoch"].iloc[0]]
    counts = first["label"].value_counts()
    known = [name for name in values.summary["labels"] if name in counts]
    frequent = sorted(known, key=lambda name: -counts[name])[: len(_LOOKS)]
    shown = [(name, int(counts[name])) for name in known if name in frequent]
    rest = len(first) - sum(rows for _, rows in shown)
    return [*shown, (None, rest)] if rest else shown


def verdict(values: Structure) -> str:
    """What training did to separability, in two sentences."""
    summary, first, last = values.summary, values.frames.iloc[0], values.frames.iloc[-1]
    epochs = len(values.frames) - 1
    change = f"Separability was {number(first['separability'])} before training and {number(last['separability'])} "
    change += f"after {'the' if epochs == 1 else 'the last'} epoch. "
    rows = f"{count(summary['won'])} rows gained, {count(summary['lost'])} lost; p {_p(summary['p'])} by McNemar’s test"
    if summary["p"] >= 0.05:
        return f"{change}That is within chance for {count(summary['rows'])} rows ({rows})."
    better = last["separability"] > first["separability"]
    return f"{change}Training {'drew the labels apart' if better else 'blurred the labels'} ({rows})."


def stretched(points: pd.DataFrame) -> str:
    """How many times a frame enlarges heights beside widths, "" if by little; its planes are about square."""
    across, up = (float(points[along].max() - points[along].min()) for along in ("x", "y"))
    times = across / up if up else 1.0
    return f"{times:.0f}" if times >= 1.5 else ""


def frame_picture(values: Structure, epoch: int) -> str:
    """The examples as the model sees them after an epoch, as one <svg> element that needs the page's symbols."""
    explained = values.summary["explained"]
    with house_style():
        figure, (axes,) = drawing(3.1)
        _plane(axes, values.points)
        axes.set_xlabel(f"first direction, {_percent(explained[0])} of the variance")
        axes.set_ylabel(f"second direction, {_percent(explained[1])}")
        described = f"Validation examples {title(epoch).lower()}, coloured by label, misclassified ones in a ring"
        return _with_points(figure, {epoch: axes}, values, f"structure-{epoch}", described, "structure-")


def side_by_side(values: Structure) -> str:
    """The frames, at most PANELS of them, in one picture that needs no page."""
    epochs = _evenly(values.frames["epoch"].tolist(), PANELS)
    columns = min(3, len(epochs))
    rows = math.ceil(len(epochs) / columns)
    separability = values.frames.set_index("epoch")["separability"]
    shown, name = groups(values), "structure-frames"
    with house_style():
        figure = Figure(figsize=(WIDTH, 0.55 + rows * (0.3 + 3.3 / columns)), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for unused in axes[len(epochs) :]:
            unused.remove()
        panels = dict(zip(epochs, axes, strict=False))
        for epoch, panel in panels.items():
            _plane(panel, values.points)
            heading = "before" if epoch == 0 else f"epoch {epoch}"
            panel.set_title(f"{heading} · {number(separability[epoch])}", fontsize=9, loc="left", pad=3)
        figure.legend(handles=_legend(shown), loc="outside upper left", ncols=3, handletextpad=0.2, columnspacing=1.0)
        described = "Validation examples before training and after each epoch, with the separability of the labels"
        scale = 0.6 if columns == 3 else 0.8
        svg = _with_points(figure, panels, values, name, described, f"{name}-")
        return svg.replace(">", f">{_symbols(f'{name}-', _looks(shown), scale)}", 1)


def scores(values: Structure) -> str:
    """Separability and the model's accuracy on the same rows at each epoch, with intervals, above the baseline."""
    frames = values.frames
    with house_style():
        figure, (axes,) = drawing(2.7)
        baseline = values.summary["majority_baseline"]
        axes.axhline(baseline, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="majority")
        looks = {"accuracy": (ORANGE, "s", 4.0, 0.06), "separability": (BLUE, "o", 4.5, -0.06)}
        for name, (colour, marker, size, shift) in looks.items():
            x = frames["epoch"] + shift  # side by side, so that intervals do not cover each other
            axes.vlines(x, frames[f"{name}_low"], frames[f"{name}_high"], color=colour, linewidth=1.2)
            axes.plot(x, frames[name], color=colour, linewidth=1.7, marker=marker, markersize=size, label=name)
        axes.set(xlabel="epoch (0: before training)", xlim=(-0.4, frames["epoch"].max() + 0.4))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        legend_above(axes, 3)
        return markup(
            figure, "structure-scores", "Separability and model accuracy before training and after each epoch"
        )


def title(epoch: int) -> str:
    return "Before training" if epoch == 0 else f"After epoch {epoch}"


def _frame(values: Structure, epoch: int) -> dict[str, Any]:
    """A frame's title and scores, each with its interval; how many of its examples are misclassified."""
    line = values.frames.set_index("epoch").loc[epoch]
    points = values.points[values.points["epoch"] == epoch]
    scored = {
        name: (number(line[name]), interval(line[f"{name}_low"], line[f"{name}_high"]))
        for name in ("separability", "accuracy")
    }
    return {"title": title(epoch), **scored, "wrong": count((points["label"] != points["predicted"]).sum())}


def _plane(axes: Axes, points: pd.DataFrame) -> None:
    """Empty axes that hold all frames; the coordinates mean nothing by themselves, so they have no ticks."""
    for along in ("x", "y"):
        low, high = points[along].min(), points[along].max()
        margin = 0.05 * ((high - low) or 1.0)
        axes.set(**{f"{along}lim": (low - margin, high + margin)})
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)


def _with_points(
    figure: Figure, panels: dict[int, Axes], values: Structure, name: str, description: str, symbols: str
) -> str:
    """The figure's markup with the examples of each panel's epoch put in, in the order of their rows.

    Args:
        symbols: what the ids of the labels' symbols begin with.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the axes stay where they are now
    shown = [label for label, _ in groups(values)]
    number_of = {label: index for index, label in enumerate(shown)}
    marks = []
    for epoch, axes in panels.items():
        points = values.points[values.points["epoch"] == epoch]
        places = axes.transData.transform(points[["x", "y"]]) * 72 / figure.dpi
        places[:, 1] = 72 * figure.get_figheight() - places[:, 1]
        group = points["label"].map(number_of).fillna(len(shown) - 1).astype(int)
        ring = np.where(points["label"] != points["predicted"], "w", "")
        uses = [
            f'<use href="#{symbols}{index}{wrong}" x="{x:.1f}" y="{y:.1f}"/>'
            for index, wrong, (x, y) in zip(group, ring, places.tolist(), strict=True)
        ]
        marks.append(f"<g>{''.join(uses)}</g>\n")
    return markup(figure, name, description).replace("</svg>", f"{''.join(marks)}</svg>")


def _symbols(prefix: str, looks: list[Look], scale: float = 1.0) -> str:
    """Definitions of each label's mark, and of the same in a ring for a misclassified example."""
    parts = []
    for index, (marker, size, _, colour) in enumerate(looks):
        mark = f'<path d="{_outline(marker, size * scale)}" fill="{colour}" stroke="var(--card)" stroke-width="0.4"/>'
        ring = f'<circle r="{_RING * scale:g}" fill="none" stroke="var(--ink)" stroke-width="{0.7 * scale:g}"/>'
        parts.append(f'<g id="{prefix}{index}">{mark}</g><g id="{prefix}{index}w">{mark}{ring}</g>')
    return f"<defs>{''.join(parts)}</defs>"


def _looks(shown: list[tuple[str | None, int]]) -> list[Look]:
    return [_REST if name is None else look for (name, _), look in zip(shown, [*_LOOKS, _REST], strict=False)]


def _legend(shown: list[tuple[str | None, int]]) -> list[Line2D]:
    handles = []
    for (name, _), (marker, size, colour, _) in zip(shown, _looks(shown), strict=True):
        label = "other labels" if name is None else _clip(name)
        handles.append(Line2D([], [], marker=marker, markersize=size, color=colour, markeredgewidth=0, label=label))
    handles.append(Line2D([], [], marker="o", markersize=2 * _RING, markerfacecolor="none", label="misclassified"))
    handles[-1].set(markeredgecolor=INK, markeredgewidth=0.7)
    for handle in handles:
        handle.set_linestyle("none")
    return handles


def _outline(marker: str, size: float) -> str:
    """matplotlib's marker as the d of a path, `size` points wide, y downwards."""
    style = MarkerStyle(marker)
    path = style.get_path().transformed(style.get_transform().frozen().scale(size, -size))
    parts = []
    for corners, code in path.iter_segments():
        parts.append(_LETTERS[code] + ("" if code == Path.CLOSEPOLY else " ".join(f"{v:.2f}" for v in corners)))
    return "".join(parts)


def _evenly(epochs: list[int], most: int) -> list[int]:
    """At most so many of the epochs, the first and the last among them."""
    places = np.linspace(0, len(epochs) - 1, min(most, len(epochs))).round().astype(int)
    return [epochs[place] for place in places]


def _percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.1 else 1}f} %"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {number(p)}"


def _clip(name: str) -> str:
    text = " ".join(name.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
