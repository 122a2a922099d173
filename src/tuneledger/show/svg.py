"""A matplotlib figure as SVG that belongs to the page it is put into.

Colours become CSS variables, so that the picture follows the page into dark mode; text stays text in the
page's font; ids get the figure's name, because several figures share a page. Equal input gives equal markup.
"""

from __future__ import annotations

import io
import re
from html import escape

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 3.6  # inches; a 360 px screen shows it at about this size, so that 9 pt text stays readable

# Blue and vermilion of Okabe and Ito's palette: told apart with any common kind of colour blindness.
BLUE, ORANGE, INK, MUTED, RULE, PAPER = "#0072b2", "#d55e00", "#1d1b19", "#6c6761", "#e3dfd8", "#fffefd"
_VARIABLES = {
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    PAPER: "var(--card)",
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tuneledger",
    "text.parse_math": False,  # a label may hold a dollar sign
    "text.color": INK,
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": MUTED,
    "legend.fontsize": 9,
    "lines.solid_capstyle": "round",
}


def drawing(height: float, rows: int = 1, ratios: list[float] | None = None) -> tuple[Figure, list[Axes]]:
    """An empty figure of the house width in the house style, with `rows` axes stacked over a shared x.

    Use inside `house_style()`.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=ratios)
    return figure, list(axes[:, 0])


def house_style():
    """Context within which figures are drawn and turned into markup."""
    return mpl.rc_context(_STYLE)


def legend_above(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        borderaxespad=0.2,
        handlelength=1.4,
        columnspacing=1.2,
    )


def markup(figure: Figure, name: str, description: str) -> str:
    """The figure as one <svg> element without outside references.

    Args:
        name: prefix of all ids, unique on the page.
        description: what the picture shows, for those who do not see it.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r'^<svg width="[^"]*" height="[^"]*"', "<svg", text)  # the page sets the size
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def standalone(element: str) -> str:
    """An element that `markup` made, as a file of its own: fixed colours on a light ground."""
    for colour, variable in _VARIABLES.items():
        element = element.replace(variable, colour)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    look = f'style="background:{PAPER};font-family:system-ui,sans-serif" width="720"'
    return '<?xml version="1.0" encoding="utf-8"?>\n' + element.replace("<svg", f"<svg {names} {look}", 1)
