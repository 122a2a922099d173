from __future__ import annotations

import math
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_ind

from tuneledger.judge.compare import Runs, holm, mcnemar_exact, mcnemar_over_seeds, rank, seed_spread


def rows(won: int, lost: int, both: int = 0, neither: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classifiers' rows with these counts of agreement and disagreement."""
    first = [True] * won + [False] * lost + [True] * both + [False] * neither
    second = [False] * won + [True] * lost + [True] * both + [False] * neither
    return np.array(first, dtype=bool), np.array(second, dtype=bool)


def runs(accuracy: float, *scores: float, n: int = 400, thinned: bool = False) -> Runs:
    """A setting whose every seed gets the first rows right, up to this accuracy; scored by it if nothing else."""
    scored = scores or (accuracy,)
    correct = np.tile(np.arange(n) < round(accuracy * n), (len(scored), 1))
    return Runs(np.array(scored), correct, thinned)


def verdicts(settings: list[Runs], mode: str = "max") -> dict[int, str]:
    """Index of a setting -> how it compares; the best has none."""
    return {p.index: p.against_best.verdict if p.against_best else "best" for p in rank(settings, mode)}


@pytest.mark.parametrize(("won", "lost"), [(0, 1), (1, 1), (0, 5), (2, 9), (14, 15), (40, 70), (0, 300)])
def test_mcnemar_is_a_binomial_test_of_the_rows_that_differ(won, lost):
    counts = mcnemar_exact(*rows(won, lost, both=50, neither=20))
    assert counts == (won, lost, pytest.approx(binomtest(won, won + lost, 0.5).pvalue))


@pytest.mark.parametrize(
    ("won", "lost", "p"),
    [(0, 5, 2 / 32), (1, 5, 2 * (1 + 6) / 64), (0, 6, 2 / 64), (3, 3, 1.0), (2, 6, 2 * (1 + 8 + 28) / 256)],
)
def test_mcnemar_counted_by_hand(won, lost, p):
    assert mcnemar_exact(*rows(won, lost))[2] == pytest.approx(p)


def test_mcnemar_of_models_that_never_differ():
    assert mcnemar_exact(*rows(0, 0, both=7, neither=3)) == (0, 0, 1.0)


def test_mcnemar_heeds_neither_order_nor_rows_that_agree():
    first, second = rows(4, 12, both=30)
    shuffle = np.random.default_rng(0).permutation(len(first))
    assert mcnemar_exact(first[shuffle], second[shuffle]) == mcnemar_exact(*rows(4, 12, neither=5))
    assert mcnemar_exact(second, first)[2] == mcnemar_exact(first, second)[2]


@pytest.mark.parametrize("seed", range(5))
def test_over_one_seed_each_it_is_mcnemar(seed):
    first, second = np.random.default_rng(seed).random((2, 60)) < 0.7
    # With one side twice, every difference doubles: the sign-flip test itself, not its shortcut.
    twice = mcnemar_over_seeds(np.stack([first, first]), second[None])
    assert mcnemar_over_seeds(first[None], second[None]) == mcnemar_exact(first, second)
    assert twice == pytest.approx(mcnemar_exact(first, second), abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_over_seeds_it_is_the_share_of_all_sign_patterns(seed):
    generator = np.random.default_rng(seed)
    seeds, others = generator.integers(1, 5, size=2)
    first, second = generator.random((seeds, 11)) < 0.8, generator.random((others, 11)) < 0.5
    d = first.mean(axis=0) - second.mean(axis=0)
    sums = np.array([signs @ d for signs in product([-1, 1], repeat=len(d))])
    expected = (abs(sums) >= abs(d.sum()) - 1e-9).mean()
    won, lost, p = mcnemar_over_seeds(first, second)
    assert (won, lost) == ((d > 1e-9).sum(), (d < -1e-9).sum())
    assert p == pytest.approx(expected)


def test_more_seeds_of_the_same_are_no_new_evidence():
    first, second = rows(3, 12, both=40)
    once = mcnemar_exact(first, second)
    assert mcnemar_over_seeds(np.tile(first, (5, 1)), np.tile(second, (3, 1))) == pytest.approx(once, abs=1e-12)


def test_over_seeds_p_is_a_probability_however_small():
    first, second = np.zeros((3, 2000), dtype=bool), np.ones((3, 2000), dtype=bool)
    assert 0 <= mcnemar_over_seeds(first, second)[2] < 1e-12
    assert mcnemar_over_seeds(first, first) == (0, 0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_spread_is_welchs_test(seed):
    generator = np.random.default_rng(seed)
    first, second = generator.normal(0.7, 0.02, size=3), generator.normal(0.72, 0.005, size=4)
    expected = ttest_ind(first, second, equal_var=False)
    spread = seed_spread(first, second)
    assert spread.p == pytest.approx(expected.pvalue)
    assert (spread.low, spread.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_spread_heeds_order_by_its_sign_only():
    first, second = np.array([0.7, 0.72, 0.69]), np.array([0.74, 0.75])
    one, other = seed_spread(first, second), seed_spread(second, first)
    assert (one.low, one.high, one.p) == pytest.approx((-other.high, -other.low, other.p))


@pytest.mark.parametrize("single", [0, 1])
def test_a_single_seed_has_no_spread(single):
    sides = [np.array([0.7, 0.72]), np.array([0.7, 0.72])]
    sides[single] = sides[single][:1]
    assert seed_spread(*sides) is None


def test_spread_of_seeds_that_all_gave_the_same():
    same, other = np.array([0.7, 0.7]), np.array([0.75, 0.75])
    assert seed_spread(same, same).p == 1
    spread = seed_spread(other, same)
    assert (spread.low, spread.high, spread.p) == pytest.approx((0.05, 0.05, 0))


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([], []),
        ([0.2], [0.2]),
        # 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04, which may not be below the one before it
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.6, 0.01], [1.0, 1.0, 0.03]),
    ],
)
def test_holm_by_hand(p, corrected):
    assert holm(p) == pytest.approx(corrected)


def test_nothing_to_rank():
    assert rank([], "max") == []


def test_one_setting_is_compared_to_nothing():
    (place,) = rank([runs(0.7)], "min")
    assert (place.index, place.score, place.against_best) == (0, 0.7, None)


@pytest.mark.parametrize(("mode", "order"), [("max", [1, 2, 0]), ("min", [0, 2, 1])])
def test_order_by_mean_score(mode, order):
    settings = [runs(0.7, 0.70, 0.72), runs(0.7, 0.80, 0.84), runs(0.7, 0.71, 0.79)]
    places = rank(settings, mode)
    assert [place.index for place in places] == order
    assert [place.score for place in places] == [pytest.approx(settings[index].scores.mean()) for index in order]


def test_equals_stay_in_the_order_given():
    assert [place.index for place in rank([runs(0.7), runs(0.8), runs(0.7), runs(0.8)], "max")] == [1, 3, 0, 2]


def test_a_thinned_setting_comes_after_the_others():
    settings = [runs(0.9, thinned=True), runs(0.7), runs(0.8)]
    assert [place.index for place in rank(settings, "max")] == [2, 1, 0]
    assert verdicts(settings)[0] == "better"


@pytest.mark.parametrize("seeds", [1, 3])
def test_identical_settings_tie(seeds):
    correct = np.random.default_rng(0).random((seeds, 300)) < 0.7
    settings = [Runs(correct.mean(axis=1), correct)] * 3
    assert verdicts(settings) == {0: "best", 1: "tie", 2: "tie"}


@pytest.mark.parametrize("scores", [(), (0.6, 0.61, 0.59)])
def test_clearly_different_settings_do_not_tie(scores):
    better = [score + 0.2 for score in scores]
    assert verdicts([runs(0.6, *scores), runs(0.8, *better)]) == {1: "best", 0: "worse"}


def test_seed_noise_makes_a_tie_of_what_the_rows_tell_apart():
    quiet = [runs(0.6, 0.60, 0.61, 0.59), runs(0.8, 0.80, 0.81, 0.79)]
    noisy = [runs(0.6, 0.60, 0.75, 0.45), runs(0.8, 0.80, 0.95, 0.65)]
    assert verdicts(quiet) == {1: "best", 0: "worse"}
    assert verdicts(noisy) == {1: "best", 0: "tie"}
    against = rank(noisy, "max")[1].against_best
    assert against.rows_p < 0.001 < 0.05 < against.spread.p


def test_few_rows_make_a_tie_of_what_the_seeds_tell_apart():
    settings = [runs(0.6, 0.60, 0.61, 0.59, n=20), runs(0.8, 0.80, 0.81, 0.79, n=20)]
    against = rank(settings, "max")[1].against_best
    assert (against.verdict, against.won, against.lost) == ("tie", 0, 4)
    assert against.spread.p < 0.05 < against.rows_p == pytest.approx(2 / 16)


def test_score_and_rows_may_point_apart():
    # Lower loss and fewer rows right: overconfident on the rows that it gets wrong, or cautious on those.
    assert verdicts([runs(0.7, 0.50), runs(0.9, 0.60)], "min") == {0: "best", 1: "mixed"}
    assert verdicts([runs(0.9, 0.50), runs(0.7, 0.60)], "min") == {0: "best", 1: "worse"}


def test_p_is_corrected_for_the_number_of_settings():
    def setting(lost: int) -> Runs:
        correct = np.arange(300) >= lost
        return Runs(np.array([correct.mean()]), correct[None])

    two = rank([setting(0), setting(8)], "max")
    assert two[1].against_best.rows_p == pytest.approx(2 / 2**8)
    four = rank([setting(0), setting(8), setting(4), setting(2)], "max")
    assert [place.index for place in four] == [0, 3, 2, 1]
    assert four[-1].against_best.rows_p == pytest.approx(6 * 2 / 2**8)  # of 6 pairs it is the clearest
    assert [place.against_best.verdict for place in four[1:]] == ["tie", "tie", "worse"]


def test_spread_is_corrected_for_the_number_of_settings():
    settings = [runs(0.8, 0.80, 0.82, 0.81), runs(0.7, 0.70, 0.72, 0.71), runs(0.6, 0.60, 0.62, 0.61)]
    alone = seed_spread(settings[2].scores, settings[0].scores)
    against = rank(settings, "max")[2].against_best
    assert (against.spread.low, against.spread.high) == (alone.low, alone.high)
    assert against.spread.p == pytest.approx(2 * alone.p)
    assert against.difference == pytest.approx(-0.2)


def test_a_setting_with_a_single_seed_is_judged_by_its_rows():
    settings = [runs(0.8, 0.80, 0.81), runs(0.79, 0.79, 0.80), runs(0.6)]
    _, second, third = rank(settings, "max")
    assert second.against_best.spread is not None
    assert (third.index, third.against_best.spread, third.against_best.verdict) == (2, None, "worse")


def test_settings_that_are_equally_good_are_rarely_told_apart():
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(60):
        correct = generator.random((8, 1, 200)) < 0.75
        alarms += set(verdicts([Runs(c.mean(axis=1), c) for c in correct]).values()) != {"best", "tie"}
    assert alarms <= 6  # 5 % of 60, and 1.8 standard deviations of that


def test_compare_loads_no_torch():
    code = "import sys, tuneledger.judge.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_over_seeds_many_rows_agree_with_the_normal_approximation():
    generator = np.random.default_rng(0)
    first, second = generator.random((3, 4000)) < 0.71, generator.random((2, 4000)) < 0.70
    d = first.mean(axis=0) - second.mean(axis=0)
    normal = math.erfc(abs(d.sum()) / math.sqrt(2 * (d**2).sum()))
    assert mcnemar_over_seeds(first, second)[2] == pytest.approx(normal, abs=0.01)
