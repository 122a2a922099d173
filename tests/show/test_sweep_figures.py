from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pandas as pd
import pytest
import sweeps

from tuneledger.show import sweep_figures as figures
from tuneledger.show.sweep import pictures
from tuneledger.show.sweep_results import SweepResults, ranked
from tuneledger.show.sweep_sections import shown

SWEEPS = ("rates_by_seeds", "pruned_search", "groups", "loaders", "seeds", "nothing_finished", "many")


def drawn(results: SweepResults) -> dict[str, str]:
    return pictures(results, ranked(results))


def words(svg: str) -> list[str]:
    return re.findall(r">([^<>\n]+)</(?:text|tspan)>", svg)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_figure_is_one_svg_that_fits_into_a_page(name):
    ids: list[str] = []
    for figure, svg in drawn(getattr(sweeps, name)()).items():
        root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
        assert root.tag == "svg" and root.get("role") == "img" and root.get("aria-label")
        own = re.findall(r'\bid="([^"]+)"', svg)
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= set(own), figure
        ids += own
        assert "http" not in svg and "<style" not in svg and "nan" not in svg.lower()
        assert "var(--" in svg and not re.search(r"#[0-9a-f]{6}\b", svg)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rates_by_seeds", {"scores", "curves"}),
        ("pruned_search", {"scores", "curves", "steps"}),
        ("loaders", {"scores", "curves"}),
        ("seeds", {"scores", "curves"}),
        ("nothing_finished", {"curves"}),
    ],
)
def test_pictures_that_would_show_nothing_are_left_out(name, expected):
    assert set(drawn(getattr(sweeps, name)())) == expected


def test_one_trial_has_a_curve_and_no_axis():
    assert set(drawn(sweeps.sweep([sweeps.trial(0)]))) == {"curves"}
    assert drawn(sweeps.sweep([sweeps.trial(0, "failed", epochs=0)])) == {}


def test_the_axis_of_learning_rates_is_logarithmic():
    scale = figures.scale("optim.lr", ["1e-3", "1e-5", "1e-4"])
    assert scale.label == "learning rate, log scale" and scale.ordered
    assert scale.place == pytest.approx({"1e-3": -3, "1e-5": -5, "1e-4": -4})
    assert list(scale.ticks.values()) == ["1e-5", "1e-4", "1e-3"]
    assert list(scale.ticks) == pytest.approx([-5, -4, -3])


def test_many_learning_rates_have_few_ticks_within_their_range():
    rates = [10 ** (-6 + 4 * index / 59) for index in range(60)]
    ticks = figures.scale("optim.lr", [repr(rate) for rate in rates]).ticks
    assert 3 <= len(ticks) <= 7 and min(ticks) >= -6 - 1e-3 and max(ticks) <= -2 + 1e-3
    assert set(ticks.values()) <= {"1e-6", "1e-5", "1e-4", "1e-3", "0.01"}


def test_learning_rates_within_one_decade_have_ticks_too():
    ticks = figures.scale("optim.lr", [repr(2e-4 + 1e-5 * index) for index in range(30)]).ticks
    assert len(ticks) >= 3 and all(math.log10(2e-4) - 1e-3 <= place <= math.log10(5e-4) for place in ticks)


@pytest.mark.parametrize(
    ("key", "values", "ordered", "ticks"),
    [
        ("loader", ["padded", "grouped"], False, ["padded", "grouped"]),
        ("trainer.max_epochs", ["8", "2", "4"], True, ["2", "4", "8"]),
        ("seed", ["3", "1", "2"], False, ["1", "2", "3"]),
        ("model.dropout", ["0.1", "null"], False, ["0.1", "null"]),
        ("data.path", ["data/raw/somewhere/else", "x"], False, ["data/raw/somewh…", "x"]),
        ("optim.lr", ["1e-4"], False, ["1e-4"]),
    ],
)
def test_few_values_stand_in_a_row(key, values, ordered, ticks):
    scale = figures.scale(key, values)
    assert (scale.label, scale.ordered, list(scale.ticks.values())) == (key, ordered, ticks)
    assert sorted(scale.place.values()) == list(range(len(values)))


def test_many_numbers_lie_where_they_are():
    scale = figures.scale("model.dropout", [f"{number / 40:g}" for number in range(20)])
    assert scale.place["0.2"] == 0.2 and scale.ordered
    assert all(0 <= tick <= 0.475 for tick in scale.ticks)


def test_of_many_names_the_axis_says_how_many_it_shows():
    scale = figures.scale("data.path", [f"name{number}" for number in range(40)])
    assert len(scale.place) == figures.CATEGORIES and scale.label == "data.path (the first 16 of 40 values)"


def test_names_are_not_joined_by_a_line():
    by_name, by_rate = drawn(sweeps.loaders())["scores"], drawn(sweeps.groups())["scores"]
    # A line and its end marks have the same two places; a path of two points is a line or a bar.
    assert count_lines(by_name) == 0 and count_lines(by_rate) == 2


def count_lines(svg: str) -> int:
    """Lines through the settings: thin, see-through and with two ends at different places across."""
    paths = re.findall(r'<path d="M (\S+) (\S+) \nL (\S+) (\S+) \n" clip-path[^>]*style="([^"]*)"', svg)
    return sum("opacity: 0.7" in style and left != right for left, _, right, _, style in paths)


def test_hollow_marks_differ_from_the_best():
    def hollow(settings: pd.DataFrame) -> int:
        across = figures.scale("optim.lr", settings["value"].tolist())
        trials = settings.assign(outcome="finished")
        svg = figures.scores(trials, settings, across, {"accuracy": "accuracy"}, 0.6)
        return len(re.findall(r"<use [^>]*fill: var\(--card\)", svg))

    settings = pd.DataFrame(
        {
            "value": ["1e-5", "1e-4", "1e-3"],
            "series": "",
            "best": [False, True, False],
            "level": [True, True, True],
            "seeds": 1,
            "accuracy": [0.7, 0.8, 0.6],
            "accuracy_low": [0.6, 0.7, 0.5],
            "accuracy_high": [0.8, 0.9, 0.7],
        }
    )
    assert hollow(settings) == 0
    assert hollow(settings.assign(level=[True, True, False])) == 1


def test_the_legend_names_what_is_there():
    assert {"pruned", "diverged", "failed", "majority"} <= set(words(drawn(sweeps.pruned_search())["scores"]))
    clean = set(words(drawn(sweeps.rates_by_seeds())["scores"]))
    assert {"one seed", "majority"} <= clean and not clean & {"pruned", "diverged", "failed"}
    assert {"loader=padded", "loader=grouped"} <= set(words(drawn(sweeps.groups())["scores"]))


def test_more_series_than_there_are_looks_for_are_not_told_apart():
    trials = [
        sweeps.trial(n, overrides={"optim.lr": f"{1 + n % 2}e-4", "data.path": f"data{n // 2}"}) for n in range(12)
    ]
    assert not any("data" in word for word in words(drawn(sweeps.sweep(trials))["scores"]))


def test_a_loss_far_off_does_not_press_the_others_flat():
    calm = [sweeps.trial(n, val_loss=0.5 + 0.01 * n) for n in range(4)]
    wild = sweeps.trial(4, "pruned", val_loss=90.0, epochs=1)
    for svg in (drawn(sweeps.sweep([*calm, wild]))[name] for name in ("scores", "curves")):
        ticks = [float(word) for word in words(svg) if re.fullmatch(r"[0-9.]+", word)]
        assert "pruned" in words(svg) and not [tick for tick in ticks if tick > 10]


def test_a_loss_that_is_no_number_is_drawn_on_the_edge():
    epochs = sweeps.curve(0.7, 0.5, 2)
    epochs.loc[1, "val_loss"] = math.inf
    trials = [sweeps.trial(0), sweeps.trial(1), replace(sweeps.trial(2, "diverged"), epochs=epochs)]
    svg = drawn(sweeps.sweep(trials))["curves"]
    assert "diverged" in words(svg) and "nan" not in svg and "inf" not in svg


def test_curves_are_named_if_they_are_few():
    assert {"1e-5", "3e-5", "1e-4", "1e-3"} <= set(words(drawn(sweeps.rates_by_seeds())["curves"]))
    assert {"rank 1", "rank 4"} <= set(words(drawn(sweeps.groups())["curves"]))
    many = sweeps.many(21)
    named = set(words(drawn(many)["curves"])) & {shown(trial.overrides["optim.lr"]) for trial in many.trials}
    assert named == {"0.0001", "0.01"}


def test_end_labels_do_not_cover_each_other():
    trials = [sweeps.trial(n, val_loss=0.5 + 0.0001 * n) for n in range(6)]
    svg = drawn(sweeps.sweep(trials))["curves"]
    heights = re.findall(r'<text [^>]* y="([^"]+)"[^>]*>[1-6]e-5</text>', svg)
    assert len(heights) == 6
    assert all(abs(one - other) >= 9 for one, other in pairwise(map(float, heights)))  # the text is 9 high


def test_names_are_text_not_markup_nor_formulas():
    hostile = "<b>&$x^2$"
    trials = [sweeps.trial(n, overrides={"loader": name}) for n, name in enumerate([hostile, "plain"])]
    for svg in drawn(sweeps.sweep(trials)).values():
        assert "&lt;b&gt;&amp;$x^2$" in svg and "<b>" not in svg


def test_figures_are_equal_for_equal_input():
    assert drawn(sweeps.pruned_search()) == drawn(sweeps.pruned_search())
