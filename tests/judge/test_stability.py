from __future__ import annotations

import math

import numpy as np
import pytest

from tuneledger.judge.stability import LAST, MARGIN, chance_loss, ending, outcome, regime, threshold

CHANCE = math.log(2)


@pytest.mark.parametrize("curvature", [0.3, 1.0, 40.0])
@pytest.mark.parametrize("share", [0.05, 0.45, 0.55, 0.95, 1.05, 3.0])
def test_the_regime_is_what_descent_on_a_parabola_does(curvature, share):
    rate = share * 2 / curvature
    first = 1.0
    second = first - rate * curvature * first
    seen = "direct" if second > 0 else "zigzag" if abs(second) < first else "unstable"
    assert regime(rate, curvature) == seen


def test_at_the_edge_itself_nothing_settles():
    assert regime(2 / 4, 4) == "unstable"
    assert regime(1 / 4, 4) == "direct"


def test_chance_is_the_entropy_of_the_labels():
    assert chance_loss(np.array([0, 1, 0, 1])) == pytest.approx(math.log(2))
    assert chance_loss(np.array([0, 0, 0, 2])) == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))


def test_chance_is_the_best_constant_answer():
    labels = np.array([0] * 7 + [1] * 3)
    for share in (0.1, 0.29, 0.31, 0.5):
        assert -np.log(np.where(labels == 1, share, 1 - share)).mean() > chance_loss(labels)


class TestOutcome:
    def test_a_loss_that_falls_learns(self):
        assert outcome(np.linspace(0.7, 0.2, 50).tolist(), CHANCE) == "learns"

    def test_a_constant_answer_is_at_chance(self):
        assert outcome([CHANCE] * 50, CHANCE) == "chance"

    def test_a_gain_within_the_noise_is_none(self):
        noisy = [CHANCE - 0.05 + 0.4 * (-1) ** step for step in range(50)]
        assert outcome(noisy, CHANCE) == "chance"

    @pytest.mark.parametrize("first", [CHANCE - 0.1, CHANCE, CHANCE + 0.5])
    def test_just_within_and_just_above_the_margin(self, first):
        end = max(first, CHANCE) + MARGIN
        assert threshold(first, CHANCE) == end
        assert outcome([first] + [end - 1e-6] * 49, CHANCE) == "chance"
        assert outcome([first] + [end + 1e-6] * 49, CHANCE) == "diverged"

    def test_a_slow_fall_towards_a_low_chance_is_no_divergence(self):
        one_in_twenty = chance_loss(np.array([0] * 19 + [1]))
        assert outcome(np.linspace(0.69, 0.6, 50).tolist(), one_in_twenty) == "chance"

    def test_only_the_end_counts(self):
        assert outcome([50.0] * 40 + [0.2] * LAST, CHANCE) == "learns"
        assert outcome([0.2] * 40 + [50.0] * LAST, CHANCE) == "diverged"

    def test_one_spike_among_the_last_is_enough_if_it_is_high_enough(self):
        assert outcome([0.69] * 49 + [0.69 + 2], CHANCE) == "diverged"
        assert outcome([0.69] * 49 + [0.69 + 0.5], CHANCE) == "chance"

    @pytest.mark.parametrize("end", [math.nan, math.inf])
    def test_a_loss_that_is_no_number_diverged_however_good_it_was(self, end):
        assert outcome([0.1, 0.1, end], CHANCE) == "diverged"
        assert outcome([end], CHANCE) == "diverged"


def test_the_ending_is_the_mean_of_the_last_losses_and_its_standard_error():
    mean, error = ending([9.0] * 5 + [1.0, 3.0] * (LAST // 2))
    assert mean == 2
    assert error == pytest.approx(np.std([1, 3] * (LAST // 2), ddof=1) / math.sqrt(LAST))
