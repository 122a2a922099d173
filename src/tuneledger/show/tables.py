"""Numbers as text, and tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

ABSENT = "–"


def number(value: float | None, digits: int = 3) -> str:
    """Fixed digits; absent and NaN as a dash."""
    return ABSENT if value is None or math.isnan(value) else f"{value:.{digits}f}"


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    return f"{number(low, digits)}–{number(high, digits)}"


def with_interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """0.764 (0.711–0.811)"""
    return f"{number(value, digits)} ({interval(low, high, digits)})"


def count(value: float | None) -> str:
    """Whole number with thin spaces between thousands, readable in any language."""
    return ABSENT if value is None else f"{round(value):,}".replace(",", "\u202f")


def large(value: float | None, unit: str = "") -> str:
    """Three significant digits and a unit prefix: 22.7 M, 1.31 P."""
    if value is None:
        return ABSENT
    prefixes = ["", "k", "M", "G", "T", "P", "E"]
    power = 0
    while abs(value) >= 999.5 and power < len(prefixes) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {prefixes[power]}{unit}".rstrip()


def duration(seconds: float | None) -> str:
    """8.4 s, 3 min 05 s, 2 h 07 min."""
    if seconds is None:
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def dollars(usd: float | None) -> str:
    """Two decimals from a dollar up, two significant digits below: $12.40, $0.028."""
    if usd is None:
        return ABSENT
    if usd >= 0.995 or usd == 0:
        return f"${usd:.2f}"
    decimals = 1 - math.floor(math.log10(usd))
    return f"${usd:.{decimals}f}"


def short_number(value: float) -> str:
    """Four digits at most: 3e-5, 0.05, 1.235e-4."""
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:.4g}"
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def clip(name: object, longest: int) -> str:
    """One line of at most `longest` characters."""
    text = " ".join(str(name).split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]], text_columns: int = 1) -> str:
    """A pipe table; the first `text_columns` columns are set left, the others right."""
    rule = [":--" if index < text_columns else "--:" for index in range(len(header))]
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in line) + " |" for line in lines)


def cell(value: object) -> str:
    """Text that cannot end a cell, a line or become markup."""
    text = " ".join(str(value).split())
    for mark in "\\|<`*":
        text = text.replace(mark, f"\\{mark}")
    return text
