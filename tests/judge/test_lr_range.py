from __future__ import annotations

from typing import Any

import curves
import numpy as np
import pytest

from tuneledger.judge.lr_range import CAP, Range, blown_up, find_range, log_spaced, smooth

RATES = curves.rates()
STEP = RATES[1] / RATES[0]  # from one rate to the next


def found(losses: np.ndarray, rates: np.ndarray = RATES) -> Range:
    return find_range(rates, losses, curves.START, curves.CHANCE)


def none(**seen: Any) -> Range:
    return Range(low=None, high=None, **seen)


class TestFindRange:
    def test_a_valley_of_known_shape(self):
        seen = found(curves.valley(RATES, learns=1e-5, lowest=3e-4))
        assert seen.reason == ""
        assert seen.lowest == pytest.approx(3e-4, rel=STEP - 1)
        assert seen.diverges == pytest.approx(3e-4**2 / 1e-5, rel=STEP - 1)  # the rise mirrors the fall
        assert seen.high == seen.diverges / 2
        assert seen.low == pytest.approx(1e-5 * 30 ** (1 / 3), rel=0.25)  # a third of the way down, on a log scale

    @pytest.mark.parametrize("shift", [0.01, 0.1, 10, 100])
    def test_the_range_moves_with_the_curve(self, shift):
        losses = curves.valley(RATES)
        here, there = found(losses), found(losses, RATES * shift)
        assert (there.low, there.high) == pytest.approx((here.low * shift, here.high * shift))

    @pytest.mark.parametrize("scale", [0.2, 5])
    def test_the_unit_of_the_loss_does_not_matter(self, scale):
        losses = curves.valley(RATES)
        scaled = find_range(RATES, losses * scale, curves.START * scale, curves.CHANCE * scale)
        here = found(losses)
        assert (scaled.low, scaled.high) == pytest.approx((here.low, here.high))

    @pytest.mark.parametrize("seed", range(8))
    def test_scatter_that_is_small_beside_the_fall_moves_the_ends_little(self, seed):
        losses = curves.valley(RATES) + np.random.default_rng(seed).normal(0, 0.015, len(RATES))
        clean, noisy = found(curves.valley(RATES)), found(losses)
        assert 1 / 2.5 < noisy.low / clean.low < 2.5
        assert 1 / 2.5 < noisy.high / clean.high < 2.5

    def test_how_far_a_diverged_loss_goes_does_not_matter(self):
        losses = curves.valley(RATES, lowest=1e-4)
        back = RATES > 1.1e-3
        assert found(np.where(back, 1e9, losses)) == found(np.where(back, CAP * curves.START, losses))

    @pytest.mark.parametrize("end", [np.nan, np.inf])
    def test_a_loss_that_is_no_number_has_diverged(self, end):
        part = RATES[RATES < 2e-4]
        losses = curves.valley(part)
        losses[-1] = end
        seen = found(losses, part)
        assert part[-5] <= seen.diverges <= part[-1]
        assert seen.low < seen.high <= seen.diverges

    def test_a_last_loss_that_is_no_number_has_diverged_however_deep_the_valley(self):
        part = RATES[RATES < 2e-4]
        losses = curves.valley(part, depth=0.65)
        losses[-1] = np.nan
        assert smooth(part, losses, curves.START)[-1] < curves.START
        assert found(losses, part).diverges == part[-1]

    def test_with_a_rare_label_all_is_lost_at_chance_and_not_only_at_the_start(self):
        chance = 0.2  # of one label in twenty; two equal weights for the labels begin at 0.7
        losses = curves.valley(RATES, learns=1e-5, lowest=3e-4, depth=0.6)
        losses = np.where(RATES > 5e-4, 0.35, losses)  # a spent model gives the frequencies, roughly
        seen = find_range(RATES, losses, curves.START, chance)
        assert 3e-4 < seen.diverges < 7e-4
        assert find_range(RATES, losses, curves.START, 0.69).diverges is None

    def test_a_loss_that_never_came_near_chance_is_lost_at_the_start(self):
        losses = curves.valley(RATES)
        assert find_range(RATES, losses, curves.START, 0.2) == found(losses)

    def test_a_narrow_valley_gets_a_decade_where_there_is_room(self):
        seen = found(curves.valley(RATES, learns=1e-5, lowest=5e-5))
        assert seen.diverges > 10 * seen.low > seen.diverges / 2
        assert seen.high == 10 * seen.low

    def test_a_narrower_one_ends_at_the_edge(self):
        seen = found(curves.valley(RATES, learns=1e-4, lowest=3e-4))
        assert seen.high == seen.diverges < 10 * seen.low

    def test_a_second_valley_beyond_the_edge_does_not_count(self):
        deeper = curves.valley(RATES, learns=1e-5, lowest=1e-4) - 0.15 * np.exp(-((np.log10(RATES) + 1) ** 2) / 0.05)
        assert found(deeper).diverges == pytest.approx(1e-3, rel=0.25)


class TestNothingFollows:
    NEVER = none(reason="the loss never falls by 1%: lower lr_find.min_lr, or there is nothing to learn")

    def test_from_a_loss_that_rises_at_once(self):
        assert found(curves.START + 0.01 * np.arange(1, 81)) == self.NEVER

    def test_from_a_first_step_that_is_no_number(self):
        assert found(np.array([np.nan]), RATES[:1]) == self.NEVER

    def test_from_a_flat_loss(self):
        assert found(np.full(80, curves.START)) == self.NEVER

    def test_from_scatter_around_the_start_but_by_rare_chance(self):
        flat = [curves.START + np.random.default_rng(seed).normal(0, 0.05, 80) for seed in range(500)]
        seen = [found(losses) for losses in flat]
        assert all((one.low is None) == (one.high is None) == bool(one.reason) for one in seen)
        assert sum(one.low is not None for one in seen) <= 5

    def test_from_a_fall_that_scatter_drowns(self):
        losses = curves.valley(RATES, depth=0.03) + np.random.default_rng(1).normal(0, 0.2, 80)
        assert found(losses).reason == "the loss scatters more than it falls: raise lr_find.steps or loader.batch_size"

    def test_from_a_ramp_that_starts_too_high(self):
        above = curves.rates(60, low=1e-4)
        seen = found(curves.valley(above, learns=1e-5, lowest=3e-4), above)
        assert seen.diverges == pytest.approx(9e-3, rel=0.3)
        assert (seen.low, seen.high) == (None, None)
        assert seen.reason == "the loss has fallen already at the first rate: lower lr_find.min_lr"

    def test_from_a_loss_that_only_falls(self):
        seen = found(curves.START - 0.005 * np.arange(1, 81))
        assert seen == none(
            lowest=RATES[-1], reason="the loss has not come back up by the last rate: raise lr_find.max_lr"
        )


class TestSmooth:
    def test_it_leaves_a_constant_and_the_middle_of_a_line(self):
        assert smooth(RATES, np.full(80, 0.3), 0.7) == pytest.approx(0.3)
        line = np.linspace(0.2, 0.6, 80)
        assert smooth(RATES, line, 0.7)[20:60] == pytest.approx(line[20:60])

    def test_it_takes_out_most_of_the_scatter(self):
        scatter = np.random.default_rng(0).normal(0, 1, 800)
        rates = curves.rates(800)
        assert smooth(rates, scatter, 100.0).std() < 0.2


class TestBlownUp:
    @pytest.mark.parametrize(
        ("last", "over"),
        [([0.7] * 6, False), ([1.0] * 6, False), ([1.1] * 6, True), ([3.0], False), ([1e9], False), ([1e9] * 4, True),
         ([np.nan], True), ([np.inf], True)],
    )  # fmt: skip
    def test_half_a_decade_of_losses_decides(self, last, over):
        losses = np.array([0.7] * 20 + last)
        assert blown_up(RATES[: len(losses)], losses, 0.7) == over


class TestLogSpaced:
    @pytest.mark.parametrize(
        ("low", "high", "rates"),
        [(4e-5, 4e-4, [4e-5, 9e-5, 2e-4, 4e-4]), (1.4e-5, 1.4e-4, [1e-5, 3e-5, 6e-5, 1e-4]),
         (0.02, 0.6, [0.02, 0.06, 0.2, 0.6])],
    )  # fmt: skip
    def test_rounded_to_a_digit(self, low, high, rates):
        assert log_spaced(low, high, 4) == rates

    def test_in_a_range_too_narrow_for_so_many_there_are_fewer(self):
        assert log_spaced(2.1e-5, 2.9e-5, 4) == [2e-5, 3e-5]

    def test_over_a_decade_all_differ(self):
        for low in np.geomspace(1e-5, 1e-4, 200):
            assert len(set(log_spaced(low, 10 * low, 4))) == 4
