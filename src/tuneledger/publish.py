"""What a picture stage leaves for people: a page, the section that the illustrated report takes over, figures."""

from __future__ import annotations

from tuneledger.paths import REPORTS, replacing, write_text
from tuneledger.show.svg import standalone


def publish(name: str, page: str, section: str, figures: dict[str, str]) -> None:
    """Write reports/<name>.html and the folder reports/<name>.

    Args:
        page, section: HTML.
        figures: <svg> elements by name.
    """
    write_text(REPORTS / f"{name}.html", page)
    with replacing(REPORTS / name) as folder:
        write_text(folder / "section.html", section)
        for title, svg in figures.items():
            write_text(folder / f"{title}.svg", standalone(svg))
