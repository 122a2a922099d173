from __future__ import annotations

from math import inf

import pytest

from tuneledger.sweep.halving import places, rungs, survivors


@pytest.mark.parametrize(
    ("max_epochs", "min_epochs", "expected"),
    [
        (4, 1, [1, 2, 4]),
        (1, 1, [1]),
        (2, 1, [1, 2]),
        (3, 1, [1, 2, 3]),
        (8, 1, [1, 2, 4, 8]),
        (10, 3, [3, 6, 10]),
        (4, 4, [4]),
        (2, 5, [2]),
    ],
)
def test_rungs_double_up_to_the_end(max_epochs, min_epochs, expected):
    assert rungs(max_epochs, min_epochs=min_epochs) == expected


@pytest.mark.parametrize(
    ("reached", "factor", "expected"), [(12, 3, 4), (4, 3, 1), (11, 3, 3), (1, 3, 1), (2, 3, 1), (8, 2, 4)]
)
def test_one_in_so_many_has_a_place_but_never_none(reached, factor, expected):
    assert places(reached, factor) == expected


def test_the_best_go_on_best_first():
    assert survivors({0: 0.9, 1: 0.3, 2: 0.5, 3: 0.1, 4: 0.7, 5: 0.8}, [0, 1, 2, 3, 4, 5], 3) == [3, 1]


def test_of_equals_the_earlier_goes_on():
    assert survivors({0: 0.5, 1: 0.5, 2: 0.5}, [0, 1, 2], 3) == [0]
    assert survivors({2: 0.5, 1: 0.5, 0: 0.6}, [0, 1, 2], 3) == [1]


def test_one_that_diverged_never_goes_on():
    assert survivors({0: inf, 1: inf, 2: inf}, [0, 1, 2], 3) == []
    assert survivors({0: inf, 1: 0.2, 2: inf, 3: inf, 4: inf, 5: inf}, [0, 1, 2, 3, 4, 5], 3) == [1]


def test_a_later_generation_is_held_against_the_earlier_ones():
    earlier = {0: 0.1, 1: 0.2, 2: 0.9}
    assert survivors({**earlier, 3: 0.3, 4: 0.5, 5: 0.6}, [3, 4, 5], 3) == []
    assert survivors({**earlier, 3: 0.15, 4: 0.5, 5: 0.6}, [3, 4, 5], 3) == [3]
    assert survivors({**earlier, 3: 0.05, 4: 0.07, 5: 0.6}, [3, 4, 5], 3) == [3, 4]


def test_nobody_to_decide_on():
    assert survivors({0: 0.1}, [], 3) == []
    assert survivors({}, [], 3) == []
