from __future__ import annotations

import re
from xml.etree import ElementTree

import pandas as pd

from tuneledger.show import figures


def all_figures(results) -> dict[str, str]:
    return {
        "loss": figures.loss_curves(results.steps, results.epochs),
        "scores": figures.score_curves(results.epochs, 0.64, 2),
        "confusion": figures.confusion_matrix(results.confusion, ["no", "yes"]),
        "calibration": figures.reliability(results.calibration),
        "slices": figures.slice_accuracy(results.slices, 0.75),
    }


def test_every_figure_is_one_svg_that_fits_into_a_page(results):
    ids: list[str] = []
    for name, svg in all_figures(results).items():
        root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
        assert root.tag == "svg" and root.get("role") == "img" and root.get("aria-label")
        assert root.get("viewBox") and root.get("width") is None
        own = re.findall(r'\bid="([^"]+)"', svg)
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
        assert set(used) <= set(own), name
        ids += own
        assert "http" not in svg and "<style" not in svg
    assert len(ids) == len(set(ids))


def test_figures_are_equal_for_equal_input(results):
    assert all_figures(results) == all_figures(results)


def test_colours_follow_the_page(results):
    for svg in all_figures(results).values():
        assert "var(--" in svg
        assert not re.search(r"#[0-9a-f]{6}\b", svg)


def test_names_are_text_not_markup_nor_formulas(results):
    confusion = results.confusion.replace({"no": "<b>&$x^2$"})
    svg = figures.confusion_matrix(confusion, ["<b>&$x^2$", "yes"])
    assert "&lt;b&gt;&amp;$x^2$" in svg and "<b>" not in svg
    assert "a$b$  (4)" in figures.slice_accuracy(results.slices, 0.75)


def test_confusion_counts_and_shares(results):
    svg = figures.confusion_matrix(pd.concat([results.confusion.head(1)] * 3 + [results.confusion]), ["no", "yes"])
    texts = re.findall(r">([^<>\n]+)</(?:text|tspan)>", svg)
    assert {"4", "80%", "1", "20%", "50%"} <= set(texts)


def test_of_many_labels_the_frequent_are_drawn():
    labels = [f"label{number}" for number in range(30)]
    rows = [name for number, name in enumerate(labels) for _ in range(number + 1)]
    svg = figures.confusion_matrix(pd.DataFrame({"actual": rows, "predicted": rows}), labels)
    assert "label29" in svg and "label18" in svg and "label17" not in svg


def test_a_long_run_is_thinned(results):
    steps = pd.DataFrame({"step": range(1, 200_001), "loss": 0.5})
    assert len(figures.loss_curves(steps, results.epochs)) < 60_000


def test_a_long_name_is_cut(results):
    slices = results.slices.assign(value="word " * 30)
    assert "word word word word w…" in figures.slice_accuracy(slices, 0.75)
