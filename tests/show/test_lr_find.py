from __future__ import annotations

import re
from xml.etree import ElementTree

import curves
import numpy as np
import pytest

from tuneledger.show import lr_find


def test_the_range_its_rule_and_the_command_are_said():
    page = lr_find.html(curves.range_test(low=3.04e-5, high=4.6e-4))
    assert "<h1>a model on twins</h1>" in page
    assert '<p class="lr_find-range">3e-5 to 4.6e-4</p>' in page
    assert "the loss of a model fell over this range, before all was lost again at 9.2e-3. Each rate" in page
    assert '<pre class="lr_find-command">python -m tuneledger.stages.train --multirun optim.lr=1e-5,3e-5</pre>' in page
    assert "The range starts where the smoothed loss has fallen by 33% of its greatest fall." in page
    assert "It ends 2 times below the rate that diverges, or 10 times above its start" in page


def test_a_loss_that_stays_above_chance_is_not_called_learning():
    assert "learned little more" not in lr_find.html(curves.range_test())
    assert "It did not fall below 0.600, the loss of always giving the" in lr_find.html(curves.range_test(chance=0.6))


def test_what_was_measured():
    test = curves.range_test()
    assert lr_find.facts(test) == [
        ["Loss before the ramp", ("0.700", "of the 32 held-out examples")],
        ["Lowest loss", ("0.608", "smoothed, at 2.9e-4")],
        ["Chance", ("0.690", "always giving the frequencies of their labels")],
        ["Diverges at", ("9.2e-3", "from here on what was gained is lost")],
        ["Ramp", ("1e-7 to 1", "80 of 80 steps, 16 examples each, seed 7")],
    ]


def test_a_ramp_that_ended_early_says_so():
    test = curves.range_test(steps=90, max_lr=10.0)
    assert lr_find.facts(test)[-1][1][1].startswith("80 of 90 steps, ")
    assert lr_find.facts(test)[-1][1][1].endswith("; it ended when the loss had blown up")


def test_without_a_range_the_reason_is_said_and_nothing_is_suggested():
    test = curves.range_test(np.full(80, curves.START))
    page = lr_find.html(test)
    assert f"No range follows from this ramp: {test.reason}." in page
    assert "<pre" not in page and 'class="lr_find-range"' not in page
    assert "Shaded" not in page and "Dashed" not in page
    assert "the one before the ramp" in page and "nowhere up to 1" in page


def texts(svg: str) -> list[str]:
    return re.findall(r">([^<>\n]+)</(?:text|tspan)>", svg)


def test_the_picture_labels_the_ends_and_the_edge():
    shown = texts(lr_find.curve(curves.range_test()))
    assert {"3e-5", "4.6e-3", "diverges", "9.2e-3", "batch", "held out", "smoothed"} <= set(shown)
    assert {"1e-7", "1e-4", "0.1", "1"} <= set(shown)


def test_without_a_range_or_an_edge_there_is_nothing_to_label():
    shown = texts(lr_find.curve(curves.range_test(np.full(80, curves.START))))
    assert "diverges" not in shown and not [text for text in shown if re.fullmatch(r"\d\.\de-\d", text)]


def places(svg: str, gid: str) -> np.ndarray:
    """Points of the line that the picture draws under an id, in the picture's own unit."""
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    (group,) = [element for element in root.iter("g") if element.get("id") == f"lr_find-curve-{gid}"]
    return np.array(re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", group.find("path").get("d")), dtype=float)


def test_the_band_begins_and_ends_at_the_range_on_the_log_scale():
    test = curves.range_test(low=1e-5, high=1e-4)
    svg = lr_find.curve(test)
    across = places(svg, "range")[:, 0]
    edge = places(svg, "edge")[:, 0]
    decade = across.max() - across.min()
    assert edge[0] - across.max() == pytest.approx(decade * np.log10(test.diverges / 1e-4), rel=1e-3)


def test_a_loss_that_is_no_number_and_one_beyond_all_measure_are_drawn():
    losses = curves.valley(curves.rates())
    losses[-2:] = 1e12, np.nan
    test = curves.range_test(losses)
    heights = places(lr_find.curve(test), "smoothed")[:, 1]
    assert np.isfinite(heights).all()
    assert lr_find.curve(test) == lr_find.curve(test)


def test_the_picture_fits_into_a_page():
    svg = lr_find.pictures(curves.range_test())["lr_find-curve"]
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.tag == "svg" and root.get("role") == "img" and root.get("aria-label") and root.get("width") is None
    own, used = (set(re.findall(pattern, svg)) for pattern in (r'\bid="([^"]+)"', r'(?:href="#|url\(#)([^")]+)'))
    assert used <= own and all(name.startswith("lr_find-curve-") for name in own)
    assert "http" not in svg and not re.search(r"#[0-9a-f]{6}\b", svg)


def test_the_section_is_part_of_the_page():
    test = curves.range_test()
    section = lr_find.section(test)
    assert section in lr_find.html(test)
    assert "<html" not in section and section.count("<section>") == section.count("</section>") == 1


def test_names_are_escaped():
    page = lr_find.html(curves.range_test(model="<b>", data="a & b"))
    assert "<h1>&lt;b&gt; on a &amp; b</h1>" in page


def test_equal_values_give_equal_pages():
    assert lr_find.html(curves.range_test()) == lr_find.html(curves.range_test())


@pytest.mark.parametrize(
    ("value", "text"), [(3e-5, "3e-5"), (3.04e-5, "3e-5"), (1.26e-4, "1.3e-4"), (0.25, "0.25"), (1, "1")]
)
def test_rates_have_two_digits(value, text):
    assert lr_find.rate(value) == text
