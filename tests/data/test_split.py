from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from tuneledger.data.split import allot, apart, connected, resplit
from tuneledger.errors import UserError

THREE = {"train": 0.7, "validation": 0.15, "test": 0.15}


def pool(rows: int = 200) -> pd.DataFrame:
    """Rows in threes that share their first text; one label in four is "b"."""
    return pd.DataFrame(
        {
            "text_a": [f"left {n // 3}" for n in range(rows)],
            "text_b": [f"right {n}" for n in range(rows)],
            "label": ["b" if n % 4 == 0 else "a" for n in range(rows)],
        }
    )


@pytest.mark.parametrize("kind", ["stratified", "grouped"])
def test_every_row_once_in_file_order(kind):
    splits = resplit(pool(), kind, THREE, seed=1)
    rows = [list(split["text_b"]) for split in splits.values()]
    assert sorted(text for part in rows for text in part) == sorted(pool()["text_b"])
    assert all(part == sorted(part, key=lambda text: int(text.split()[1])) for part in rows)


def test_stratified_is_exact():
    splits = resplit(pool(), "stratified", THREE, seed=1)
    counts = {name: dict(Counter(split["label"])) for name, split in splits.items()}
    assert {name: sum(part.values()) for name, part in counts.items()} == {
        "train": 140,
        "validation": 30,
        "test": 30,
    }
    assert counts["train"] == {"a": 105, "b": 35}
    assert {part["b"] for name, part in counts.items() if name != "train"} <= {7, 8}


def test_grouped_shares_no_sentence_and_keeps_the_balance():
    splits = resplit(pool(), "grouped", THREE, seed=1)
    groups = [set(split["text_a"]) for split in splits.values()]
    assert groups[0].isdisjoint(groups[1] | groups[2])
    assert groups[1].isdisjoint(groups[2])
    for name, split in splits.items():
        assert abs(len(split) / 200 - THREE[name]) < 0.02
        assert abs((split["label"] == "b").mean() - 0.25) < 0.06


@pytest.mark.parametrize("kind", ["stratified", "grouped"])
def test_the_seed_decides_and_row_order_does_not(kind):
    def members(rows, seed):
        return {name: set(split["text_b"]) for name, split in resplit(rows, kind, THREE, seed).items()}

    mixed = pool().sample(frac=1, random_state=3)
    assert members(pool(), 1) == members(pool(), 1) == members(mixed, 1)
    assert members(pool(), 1) != members(pool(), 2)


def test_connected_follows_chains_in_either_column():
    rows = pd.DataFrame({"text_a": ["a", "b", "c ", "x"], "text_b": ["b", "C", "d", "y"]})
    groups = connected(rows)
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_apart_takes_out_what_holds_a_sentence_of_test_and_nothing_else():
    rows = pd.DataFrame(
        {"text_a": ["a", "b", "c", "T ", "x"], "text_b": ["b", "t", "b", "d", "y"], "label": list("01001")}
    )
    test = pd.DataFrame({"text_a": ["t"], "text_b": ["u"], "label": ["1"]})
    assert apart(pd.concat([rows, rows]), test)["text_a"].tolist() == ["a", "c", "x"] * 2


def test_apart_refuses_to_leave_a_class_too_few_rows():
    rows = pd.DataFrame({"text_a": list("abcdef"), "label": list("yynnnn")})
    with pytest.raises(UserError) as caught:
        apart(rows, rows[1:2])
    assert str(caught.value) == (
        "data.split=grouped leaves 1 of 2 row(s) of class 'y' for train and validation: the others share a sentence "
        "with the given test split; set data.test_fraction above 0, which draws test anew"
    )
    with pytest.raises(UserError, match="leaves 0 of 2 "):
        apart(rows, rows)


def test_a_large_group_goes_to_train_even_when_two_are_large():
    groups = [0] * 45 + [1] * 45 + list(range(2, 12))
    chosen = allot(groups, ["a"] * 100, THREE, seed=0)
    assert set(chosen[:90]) == {0}
    assert set(chosen[90:]) == {1, 2}


@pytest.mark.parametrize("count", [3, 4, 5, 7])
def test_the_rarest_class_reaches_every_split(count):
    rows = pd.DataFrame({"text_a": [str(n) for n in range(100)], "label": ["b"] * count + ["a"] * (100 - count)})
    for fractions in (THREE, {"train": 0.1, "validation": 0.45, "test": 0.45}):
        splits = resplit(rows, "stratified", fractions, seed=0)
        assert all((split["label"] == "b").any() for split in splits.values())


def test_a_class_with_fewer_rows_than_splits():
    rows = pd.DataFrame({"text_a": list("abcdef"), "label": list("yynnnn")})
    with pytest.raises(UserError) as caught:
        resplit(rows, "stratified", THREE, seed=0)
    assert str(caught.value) == (
        "class 'y' has 2 row(s), but data.split=stratified makes 3 splits and each needs one: "
        "add rows, merge classes, or make fewer splits (data.test_fraction=0)"
    )
    assert {n: len(s) for n, s in resplit(rows, "stratified", {"train": 0.5, "validation": 0.5}, seed=0).items()} == {
        "train": 3,
        "validation": 3,
    }


def test_rows_all_connected_cannot_be_grouped():
    rows = pd.DataFrame({"text_a": ["same"] * 10, "text_b": list("abcdefghij"), "label": ["0", "1"] * 5})
    with pytest.raises(UserError) as caught:
        resplit(rows, "grouped", THREE, seed=0)
    assert str(caught.value) == (
        "data.split=grouped leaves no row of class '0' for validation: "
        "10 of 10 rows are connected by shared sentences and must stay together"
    )


def test_numbers_as_labels_work_too():
    rows = pd.DataFrame({"text_a": [str(n) for n in range(20)], "label": np.arange(20) % 2})
    splits = resplit(rows, "stratified", {"train": 0.8, "validation": 0.2}, seed=0)
    assert splits["validation"]["label"].sum() == 2
