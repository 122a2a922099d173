"""What a page is really like in a browser: measured in headless Chromium, at a width, in light or dark.

The page is given a script of ours, first of all its scripts, that notes errors and, once everything has run, measures.
It lies in a frame of the asked width, because a window of Chromium's is never narrower than 500 px; the document around
it takes the measurements, and Chromium prints that document.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SCHEMES = {"dark": 0, "light": 1}  # Blink's numbers for prefers-color-scheme
HEIGHT = 900
SETTLE_MS = 1000  # of the page's own time, through which Chromium runs as fast as it can
HEAVIEST = 3_000_000  # bytes
SMALLEST_TEXT = 7.0  # px of text in a picture, at any width
CONTRAST = 4.5  # of text to its ground: WCAG 2.2, 1.4.3, level AA
CONTRAST_LARGE = 3.0  # of large text (the same place) and of text in pictures, which also has shape and place (1.4.11)

LINKS = frozenset({"src", "srcset", "href", "xlink:href", "poster", "data", "action", "formaction", "background"})
STYLE_URL = re.compile(r"""url\(\s*["']?(?!#|data:)([^"')]*)|@import\s+([^;]*)""")

SCRIPT = r"""
(() => {
  const errors = [];
  addEventListener('error', event => errors.push(event.message || `cannot load ${event.target.outerHTML}`), true);
  addEventListener('unhandledrejection', event => errors.push(`unhandled rejection: ${event.reason}`));
  const loud = console.error;
  console.error = (...words) => { errors.push(words.join(' ')); loud(...words); };

  const pen = Object.assign(document.createElement('canvas'), {width: 1, height: 1})
    .getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = '#000';
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, ground, alpha) => [0, 1, 2].map(i => top[i] * alpha + ground[i] * (1 - alpha));
  const luminance = colour => {
    const [r, g, b] = colour.slice(0, 3).map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const ancestors = element => {
    const chain = [];
    for (let at = element; at; at = at.parentElement) chain.unshift(at);
    return chain;
  };
  let paper;
  const unpainted = () => {
    const probe = document.body.appendChild(document.createElement('i'));
    probe.style.backgroundColor = 'Canvas';
    const colour = rgba(getComputedStyle(probe).backgroundColor);
    probe.remove();
    return colour;
  };
  const ground = element => {
    let colour = paper;
    for (const at of ancestors(element)) {
      const [r, g, b, alpha] = rgba(getComputedStyle(at).backgroundColor);
      colour = over([r, g, b], colour, alpha);
    }
    return colour;
  };
  const opacity = element => ancestors(element).reduce((all, at) => all * Number(getComputedStyle(at).opacity), 1);
  const shown = element => element.checkVisibility({visibilityProperty: true, opacityProperty: true});
  const own = element => [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('').trim();

  const outside = (element, picture) => {
    const [inner, outer] = [element, picture].map(at => at.getBoundingClientRect());
    return inner.left < outer.left - 2 || inner.right > outer.right + 2 || inner.top < outer.top - 2
      || inner.bottom > outer.bottom + 2;
  };

  const texts = () => [...document.body.querySelectorAll('*')]
    .filter(element => !element.closest('script, style, title, desc') && own(element) && shown(element))
    .map(element => {
      const style = getComputedStyle(element);
      const picture = element.closest('svg');
      const behind = ground(element);
      const [r, g, b, alpha] = rgba(picture ? style.fill : style.color);
      const size = parseFloat(style.fontSize);
      const matrix = picture && element.getScreenCTM();
      return {
        text: own(element).slice(0, 40),
        picture: Boolean(picture),
        cut: Boolean(picture) && outside(element, picture),
        size: matrix ? size * Math.sqrt(Math.abs(matrix.a * matrix.d - matrix.b * matrix.c)) : size,
        bold: Number(style.fontWeight) >= 700,
        contrast: contrast(over([r, g, b], behind, alpha * opacity(element)), behind),
      };
    });
  const pictures = () => [...document.querySelectorAll('svg')].filter(svg => svg.checkVisibility()).map(svg => ({
    name: svg.getAttribute('aria-label') || svg.id || 'svg without a name',
    width: svg.getBoundingClientRect().width,
    height: svg.getBoundingClientRect().height,
  }));
  const wide = () => [...document.body.querySelectorAll('*')]
    .filter(element => element.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .slice(0, 3).map(element => element.outerHTML.slice(0, 80));

  const measure = () => {
    paper = unpainted();
    const found = {
      width: innerWidth,
      scroll_width: document.documentElement.scrollWidth,
      dark: matchMedia('(prefers-color-scheme: dark)').matches,
      errors,
      requests: performance.getEntriesByType('resource').map(entry => entry.name),
      wide: wide(),
      pictures: pictures(),
      texts: texts(),
    };
    parent.postMessage(encodeURIComponent(JSON.stringify(found)), '*');
  };
  addEventListener('load', () => setTimeout(measure, SETTLE_MS));
})();
"""

FRAME = """<!doctype html>
<html><head><meta name="color-scheme" content="light dark"></head><body style="margin: 0">
<iframe src="page.html" style="width: {width}px; height: {height}px; border: 0"></iframe>
<script>addEventListener('message', event => document.body.replaceChildren(event.data))</script></body></html>
"""


def find() -> str | None:
    """The browser's program, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def problems(page: str, width: int, scheme: str) -> list[str]:
    """What is wrong with a page, a line each; [] if nothing is.

    Args:
        page: HTML.
        width: of the window, px.
        scheme: light or dark.
    """
    found = measure(page, width, scheme)
    weight = len(page.encode())
    lines = [f"weighs {weight / 1e6:.1f} MB, more than {HEAVIEST / 1e6:g}"] if weight >= HEAVIEST else []
    lines += [f"refers to the outside: {reference}" for reference in references(page)]
    lines += [f"asked for {url}" for url in found["requests"]]
    lines += [f"script error: {error}" for error in found["errors"]]
    if found["scroll_width"] > width:
        lines.append(f"is {found['scroll_width']} px wide in a window of {width}: {'; '.join(found['wide'])}")
    for picture in found["pictures"]:
        if not (picture["width"] and picture["height"]):
            lines.append(f"picture without extent: {picture['name']}")
    return lines + [line for text in found["texts"] for line in text_problems(text)]


def text_problems(text: dict[str, Any]) -> list[str]:
    """What makes one piece of text hard to read."""
    lines = []
    if text["picture"] and text["size"] < SMALLEST_TEXT:
        lines.append(f"text of {text['size']:.1f} px in a picture: {text['text']}")
    if text["cut"]:
        lines.append(f"text cut off by the edge of its picture: {text['text']}")
    large = text["picture"] or text["size"] >= 24 or (text["bold"] and text["size"] >= 18.66)
    if text["contrast"] < (CONTRAST_LARGE if large else CONTRAST):
        lines.append(f"contrast of {text['contrast']:.1f}: {text['text']}")
    return lines


def references(page: str) -> list[str]:
    """What a page's markup and styles refer to beyond itself: any address but #anchors and data."""
    parser = _References()
    parser.feed(page)
    return parser.found


def measure(page: str, width: int, scheme: str) -> dict[str, Any]:
    """What the script measured once the page had loaded and run for a second."""
    script = f"<script>const SETTLE_MS = {SETTLE_MS};{SCRIPT}</script>"
    watched, heads = re.subn(r"(<head\b[^>]*>)", lambda match: match[1] + script, page, count=1)
    assert heads, "the page has no <head>"
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder, "page.html").write_text(watched, encoding="utf-8")
        frame = Path(folder, "frame.html")
        frame.write_text(FRAME.format(width=width, height=HEIGHT), encoding="utf-8")
        command = [
            find(),
            "--headless=new",
            "--no-sandbox",  # it needs privileges that a container lacks; the pages are our own
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-extensions",
            "--no-first-run",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder}/profile",
            f"--window-size={max(width, 500)},{HEIGHT}",
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
            f"--virtual-time-budget={2 * SETTLE_MS}",
            "--dump-dom",
            frame.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    measured = re.search(r"<body[^>]*>([^<\s]+)</body>", done.stdout)
    assert measured, f"the browser measured nothing: {done.stderr[-2000:]}"
    found = json.loads(unquote(measured[1]))
    assert (found["width"], found["dark"]) == (width, scheme == "dark"), "the browser took another width or scheme"
    return found


class _References(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._style = tag == "style"
        for name, value in attrs:
            if name in LINKS and not (value or "").startswith(("#", "data:")):
                self.found.append(f"{tag} {name}={value}")
            self._look(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        if self._style:
            self._look(data)

    def _look(self, style: str) -> None:
        self.found += [match[1] or match[2] for match in STYLE_URL.finditer(style)]
