"""Filling the templates beside this file. Every HTML template extends page.html.j2, which holds the house style."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def page(template: str, context: dict[str, Any]) -> str:
    """An HTML page that opens offline. Texts are escaped; a context value of type Markup goes in as it is."""
    return _fill(template, context, autoescape=True).lstrip()


def text(template: str, context: dict[str, Any]) -> str:
    """A template of plain text or Markdown."""
    return _fill(template, context, autoescape=False)


def _fill(template: str, context: dict[str, Any], *, autoescape: bool) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(context)
