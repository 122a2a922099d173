"""Every page as a browser shows it: narrow and wide, light and dark.

A new page is a fixture that gives its HTML and a name in PAGES.
"""

from __future__ import annotations

import browser
import clouds
import curves
import descents
import pytest
import sweeps

from tuneledger.show import descent, lr_find, report, structure, sweep

PAGES = ("report_page", "lr_find_page", "descent_page", "structure_page", "illustrated_page", "sweep_page")

pytestmark = pytest.mark.skipif(
    browser.find() is None, reason=f"no browser to look at the pages with: install one of {', '.join(browser.NAMES)}"
)


@pytest.fixture
def report_page(results) -> str:
    return report.html(results)


@pytest.fixture
def lr_find_page() -> str:
    return lr_find.html(curves.range_test())


@pytest.fixture
def descent_page() -> str:
    return descent.html(descents.values())


@pytest.fixture
def structure_page() -> str:
    return structure.html(clouds.values(["a paraphrase", "another meaning", "neither"]))


@pytest.fixture
def illustrated_page(results) -> str:
    sections = [
        lr_find.section(curves.range_test()),
        descent.section(descents.values()),
        structure.section(clouds.values()),
    ]
    return report.html(results, sections)


@pytest.fixture
def sweep_page() -> str:
    return sweep.html(sweeps.rates_by_seeds())


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_sound(page, width, scheme, request):
    assert browser.problems(request.getfixturevalue(page), width, scheme) == []


def as_printed(page: str) -> str:
    """The page with the styles that it has on paper."""
    return page.replace("@media print", "@media all").replace("@media screen", "@media not all")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_sound_on_paper_and_has_no_buttons_there(page, request):
    check = """<script>
      for (const button of document.querySelectorAll('button')) if (button.checkVisibility()) throw new Error('button');
    </script>"""
    printed = as_printed(request.getfixturevalue(page)).replace("</body>", f"{check}</body>")
    assert browser.problems(printed, 718, "light") == []  # A4 less its margins


def around(body: str, style: str = "") -> str:
    return f'<!doctype html><html><head><meta charset="utf-8"><style>{style}</style></head><body>{body}</body></html>'


def picture(text: str = "", look: str = "width: 300px") -> str:
    return f'<svg aria-label="a picture" viewBox="0 0 300 100" style="{look}">{text}</svg>'


def test_a_plain_page_has_no_problems():
    page = around('<p id="a">A <a href="#a">word</a></p>' + picture('<text x="9" y="50" font-size="12">tick</text>'))
    assert browser.problems(page, 360, "light") == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<div style="width: 2000px">wide</div>', "is 2008 px wide in a window of 360: <div"),
        ('<img src="https://example.org/a.png">', "refers to the outside: img src=https://example.org/a.png"),
        ('<p style="background: url(https://example.org/a.png)">x</p>', "refers to the outside: https://example.org"),
        ("<style>@import 'https://example.org/a.css';</style>", "refers to the outside: 'https://example.org/a.css'"),
        ('<script>new Image().src = "https://example.org/a.png"</script>', "asked for https://example.org/a.png"),
        ('<script>throw new Error("oh no")</script>', "script error: Uncaught Error: oh no"),
        ("<script>setTimeout(() => nowhere(), 200)</script>", "script error: Uncaught ReferenceError: nowhere"),
        ('<script>Promise.reject("lost")</script>', "script error: unhandled rejection: lost"),
        ('<script>console.error("bad", 1)</script>', "script error: bad 1"),
        (picture(look="width: 0"), "picture without extent: a picture"),
        (picture('<text x="9" y="50" font-size="6">tiny</text>'), "text of 6.0 px in a picture: tiny"),
        (picture('<text x="9" y="50" font-size="12">half</text>', "width: 150px"), "text of 6.0 px in a picture: half"),
        (picture('<text x="290" y="50" font-size="12">edge of it</text>'), "text cut off by the edge of its picture: "),
        (picture('<text x="9" y="50" font-size="12" fill="#bbb">dim</text>'), "contrast of 1.9: dim"),
        ('<p style="color: #888">grey</p>', "contrast of 3.5: grey"),
        ('<p style="opacity: 0.4">faded</p>', "contrast of 2.8: faded"),
        ('<p style="background: #333">on dark</p>', "contrast of 1.7: on dark"),
        ("x" * browser.HEAVIEST, "weighs 3.0 MB, more than 3"),
    ],
)  # fmt: skip
def test_a_problem_is_told(body, problem):
    found = browser.problems(around(body, "p, div, body { overflow-wrap: anywhere }"), 360, "light")
    assert [line for line in found if line.startswith(problem)], found


def test_large_text_may_be_fainter_and_hidden_text_may_be_anything():
    body = '<h1 style="color: #888; font-size: 24px">grey</h1><p hidden style="color: #eee">unseen</p>'
    assert browser.problems(around(body), 360, "light") == []


def test_the_scheme_reaches_the_page():
    style = "@media (prefers-color-scheme: dark) { body { background: #111 } }"
    page = around("<p>black</p>", style)
    assert browser.problems(page, 1280, "light") == []
    assert browser.problems(page, 1280, "dark") == ["contrast of 1.1: black"]
