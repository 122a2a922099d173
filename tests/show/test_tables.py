from __future__ import annotations

import pytest

from tuneledger.show.tables import cell, count, dollars, duration, interval, large, markdown, number


def test_numbers():
    assert number(0.76449) == "0.764"
    assert number(None) == number(float("nan")) == "–"
    assert interval(0.7, 0.81234) == "0.700–0.812"
    assert count(1301) == "1\u202f301"
    assert count(None) == "–"


@pytest.mark.parametrize(("value", "text"), [(12, "12"), (999.6, "1 k"), (22713986, "22.7 M"), (None, "–")])
def test_large(value, text):
    assert large(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.96, "1 min 00 s"), (184.2, "3 min 04 s"), (3599.8, "1 h 00 min"), (7620, "2 h 07 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("usd", "text"), [(0, "$0.00"), (0.0279, "$0.028"), (0.5, "$0.50"), (0.996, "$1.00"), (12.4, "$12.40"), (None, "–")]
)
def test_dollars(usd, text):
    assert dollars(usd) == text


def test_markdown_table():
    assert markdown(("Epoch", "F1"), [["1", "0.5"]]) == "| Epoch | F1 |\n| :-- | --: |\n| 1 | 0.5 |"


def test_a_cell_stays_one_cell_of_plain_text():
    assert cell("a|b\n<i> *c*") == r"a\|b \<i> \*c\*"


def test_large_takes_a_unit():
    assert large(2.08e13, "FLOP") == "20.8 TFLOP"
    assert large(None, "FLOP") == "–"
