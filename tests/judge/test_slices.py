from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tuneledger.judge.intervals import wilson
from tuneledger.judge.slices import COLUMNS, slices


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {"label": [0, 1, 1, 0, 0], "domain": ["sport", "life", "life", "sport", None], "kind": list("aaaab")}
    )


def test_one_line_per_value_in_order():
    table = slices(frame(), np.array([0, 1, 0, 1, 0]), ["kind", "domain"], labels=2)
    assert tuple(table.columns) == COLUMNS
    assert list(zip(table["column"], table["value"], table["rows"], strict=True)) == [
        ("kind", "a", 4),
        ("kind", "b", 1),
        ("domain", "(none)", 1),
        ("domain", "life", 2),
        ("domain", "sport", 2),
    ]
    life = table[table["value"] == "life"].iloc[0]
    assert life["accuracy"] == 0.5 and life["majority_baseline"] == 1
    assert (life["accuracy_low"], life["accuracy_high"]) == wilson(1, 2)
    assert life["f1"] == pytest.approx(2 / 3)


def test_f1_is_empty_where_no_row_is_positive():
    table = slices(frame(), np.array([0, 1, 0, 1, 0]), ["domain"], labels=2).set_index("value")
    assert np.isnan(table.loc["sport", "f1"])


def test_f1_is_macro_for_many_labels():
    three = pd.DataFrame({"label": [0, 1, 2], "kind": ["x", "x", "x"]})
    table = slices(three, np.array([0, 1, 1]), ["kind"], labels=3)
    assert table["f1"].tolist() == pytest.approx([(1 + 2 / 3 + 0) / 3])


def test_no_columns_give_an_empty_table():
    assert tuple(slices(frame(), np.zeros(5, dtype=int), [], labels=2).columns) == COLUMNS
