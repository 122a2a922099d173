from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from tuneledger.data.table import (
    MAX_FIELD,
    encode,
    label_name,
    label_names,
    sentence_ids,
    slice_columns,
    to_table,
)
from tuneledger.errors import UserError


def frame(**columns: list[Any]) -> pd.DataFrame:
    values = pd.DataFrame(columns, dtype=object)
    values.index += 2
    return values


def table(labels: list[str]) -> pd.DataFrame:
    return to_table(frame(t=["x"] * len(labels), l=labels), "d/a.tsv", text=["t"], label="l")


def fault(values: pd.DataFrame, text: list[str] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        to_table(values, "d/a.tsv", text=text or ["t"], label="l")
    return str(caught.value)


def test_pair_columns_order_and_strings():
    values = frame(k=[1, None], l=[1.0, True], b=["c", "d"], a=["a ", "b"], z=[[1], float("nan")])
    result = to_table(values, "d/a.tsv", text=["a", "b"], label="l")
    assert result.to_dict("list") == {
        "text_a": ["a ", "b"],
        "text_b": ["c", "d"],
        "label": ["1", "true"],
        "source": ["d/a.tsv:2", "d/a.tsv:3"],
        "k": ["1", ""],
        "z": ["[1]", ""],
    }
    assert set(result.dtypes.astype(str)) == {"str"}


def test_single_text_has_no_second_column():
    assert list(table(["0", "1"])) == ["text_a", "label", "source"]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1, "1"),
        (1.0, "1"),
        (-2, "-2"),
        (True, "true"),
        (False, "false"),
        (" yes ", "yes"),
        ("01", "01"),
        ("none", "none"),
        ("", None),
        ("NaN", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_label_name(value, name):
    assert label_name(value) == name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (frame(a=["x"], l=["1"]), "d/a.tsv: no column 't'; found: 'a', 'l'"),
        (frame(t=["x"], m=["1"]), "d/a.tsv: no column 'l'; found: 't', 'm'"),
        (
            frame(t=["x", " \t"], l=[1, 1]),
            "d/a.tsv:3: column 't': the text is empty: fill it in or remove the row",
        ),
        (frame(t=[None], l=[1]), "d/a.tsv:2: column 't': the text is empty: fill it in or remove the row"),
        (frame(t=[7], l=[1]), "d/a.tsv:2: column 't': expected a text, found int 7"),
        (frame(t=["x"], l=[""]), "d/a.tsv:2: column 'l': the label is missing: fill it in or remove the row"),
        (
            frame(t=["x"], l=["nan"]),
            "d/a.tsv:2: column 'l': the label is missing: fill it in or remove the row",
        ),
        (
            frame(t=["x"], l=[float("nan")]),
            "d/a.tsv:2: column 'l': the label is missing: fill it in or remove the row",
        ),
        (frame(t=["x"], l=[0.5]), "d/a.tsv:2: column 'l': 0.5 names no class"),
        (frame(t=["x"], l=[[1]]), "d/a.tsv:2: column 'l': [1] names no class"),
        (frame(t=["x\0"], l=[1]), "d/a.tsv:2: column 't': holds a NUL character"),
        (
            frame(t=["\ud800"], l=[1]),
            "d/a.tsv:2: column 't': holds half of a surrogate pair, which is no character",
        ),
        (
            frame(t=["x"], l=[1], source=["web"]),
            "d/a.tsv: the column name 'source' is reserved: rename it or make it data.text or data.label",
        ),
    ],
)
def test_faults_name_line_and_column(values, message):
    assert fault(values) == message


@pytest.mark.parametrize("column", ["t", "extra"])
def test_a_field_of_ten_megabytes_is_refused(column):
    values = frame(t=["x", "x"], l=[0, 1], extra=["", ""])
    values.loc[3, column] = "y" * 10_000_000
    assert fault(values) == f"d/a.tsv:3: column '{column}': 10,000,000 characters, at most {MAX_FIELD:,} are read"


def test_labels_are_sorted_as_numbers_if_all_are():
    assert label_names(table(["10", "9", "-1"]), None) == ["-1", "9", "10"]
    assert label_names(table(["10", "9", "a"]), None) == ["10", "9", "a"]


def test_explicit_labels_keep_their_order():
    assert label_names(table(["1", "0"]), [1, 0, "maybe"]) == ["1", "0", "maybe"]


@pytest.mark.parametrize("labels", [["a"], ["a", "a"], [1, 1.0], ["a", None], "ab", [0.5, 1]])
def test_bad_explicit_labels(labels):
    with pytest.raises(UserError) as caught:
        label_names(table(["1", "0"]), labels)
    assert str(caught.value) == f"data.labels={labels} must be a list of two or more different names"


def test_one_class_only():
    with pytest.raises(UserError) as caught:
        label_names(table(["1", "1"]), None)
    assert str(caught.value) == (
        "all 2 training rows have the label '1' (first: d/a.tsv:2): a classifier needs two classes"
    )


def test_encode():
    assert encode(table(["b", "a", "b"]), ["b", "a"])["label"].tolist() == [0, 1, 0]
    assert encode(table(["b", "a"]), ["b", "a"])["label"].dtype == "int64"
    with pytest.raises(UserError) as caught:
        encode(table(["b", "c"]), ["a", "b"])
    assert str(caught.value) == "d/a.tsv:3: the label 'c' is not one of a, b; data.labels may list them all"


def test_sentence_ids_ignore_case_and_white_space():
    rows = pd.DataFrame({"text_a": ["A  b", "c"], "text_b": ["c", " a B "]})
    assert sentence_ids(rows).tolist() == [[0, 1], [1, 0]]


def test_slices_have_few_values_over_all_splits():
    train = table(["0", "1"] * 60).assign(
        id=range(120), kind=["x", "y"] * 60, one="1", fifty=[n % 50 for n in range(120)]
    )
    train["many"] = [n % 51 for n in range(120)]
    assert slice_columns({"train": train}) == ["kind", "fifty"]
    assert slice_columns({"train": train[:2], "validation": train[2:3]}) == []
