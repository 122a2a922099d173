from __future__ import annotations

import numpy as np
import pytest

from tuneledger.judge.separability import probe, project, stratified_folds


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def turned(width: int) -> np.ndarray:
    """An orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(7).normal(size=(width, width)))[0]


def groups(random: np.random.Generator, labels: int, each: int, width: int, apart: float) -> tuple:
    """Representations and labels: spheres of radius about 1 around places that far apart."""
    label = np.repeat(np.arange(labels), each)
    places = apart * np.eye(labels, width)
    return places[label] + random.normal(size=(len(label), width)) / np.sqrt(width), label


class TestProject:
    def test_the_axes_are_the_directions_of_most_variance_of_the_last_frame(self):
        u, v = np.eye(4)[2], np.eye(4)[0]
        x, y = np.array([-3.0, -1, 1, 3]), np.array([1.0, -1, -1, 1])  # uncorrelated: variances 20 / 4 and 4 / 4
        last = np.array([5.0, 6, 7, 8]) + np.outer(x, u) + np.outer(y, v)
        points, shares = project(np.stack([last + 2 * u - v, last]))
        np.testing.assert_allclose(points[1], np.column_stack([x, y]), atol=1e-12)
        np.testing.assert_allclose(points[0], np.column_stack([x + 2, y - 1]), atol=1e-12)
        np.testing.assert_allclose(shares, [20 / 24, 4 / 24])

    def test_earlier_frames_do_not_move_the_plane(self, random):
        frames = random.normal(size=(4, 30, 6))
        np.testing.assert_array_equal(project(frames)[0][2:], project(frames[2:])[0])

    def test_distances_are_those_within_the_plane(self, random):
        """Turning the whole space changes neither lengths in the plane nor the shares."""
        frames = random.normal(size=(3, 30, 6)) * np.arange(1, 7)
        (one, shares), (other, same) = project(frames), project(frames @ turned(6))
        np.testing.assert_allclose(np.abs(one), np.abs(other), atol=1e-9)
        np.testing.assert_allclose(shares, same)

    def test_the_sign_is_fixed(self, random):
        """Of both directions along an axis, the one with its largest component positive; also of mirrored data."""
        last = np.outer(random.normal(size=20), [0.3, -0.9, 0.1]) + np.outer(random.normal(size=20) / 9, [0, 0, 1])
        points, _ = project(last[None])
        assert np.corrcoef(points[0, :, 0], last[:, 1])[0, 1] > 0.99
        np.testing.assert_allclose(project(-last[None])[0], -points, atol=1e-12)

    def test_half_precision_and_rows_that_are_all_equal(self):
        points, shares = project(np.ones((2, 5, 3), dtype=np.float16))
        assert points.dtype == np.float64
        assert not points.any() and not shares.any()


class TestProbe:
    def test_labels_that_lie_apart(self, random):
        seen, label = groups(random, labels=5, each=12, width=20, apart=8)
        assert (probe(seen, label) == label).all()

    def test_a_row_is_never_judged_by_what_was_fitted_to_it(self, random):
        """In 300 dimensions 80 rows can always be parted; yet labels that mean nothing cannot be told."""
        label = np.arange(80) % 2
        right = probe(random.normal(size=(80, 300)), label) == label
        assert 0.3 < right.mean() < 0.7

    def test_overlapping_groups_are_told_as_often_as_they_can_be(self, random):
        """Two normal groups 2 apart: the best cut is right for 84 % of rows, the normal distribution at 1."""
        label = np.arange(4000) % 2
        seen = random.normal(size=(4000, 3)) + 2 * np.outer(label, [1, 0, 0])
        assert (probe(seen, label) == label).mean() == pytest.approx(0.841, abs=0.02)

    def test_turning_moving_and_scaling_the_space_changes_nothing(self, random):
        seen, label = groups(random, labels=3, each=30, width=10, apart=0.5)
        expected = probe(seen, label)
        assert 0.4 < (expected == label).mean() < 0.95
        assert (probe(100 * seen @ turned(10) + 40, label) == expected).all()

    def test_twice_the_same(self, random):
        seen, label = groups(random, labels=3, each=10, width=4, apart=0.5)
        assert (probe(seen, label) == probe(seen, label)).all()

    def test_a_label_with_one_row_is_never_given(self, random):
        label = np.array([0] * 10 + [1] * 10 + [2])
        assert 2 not in probe(random.normal(size=(21, 4)), label)

    def test_two_labels_one_of_them_with_one_row(self, random):
        assert probe(random.normal(size=(6, 4)), np.array([0, 0, 0, 0, 0, 7])).tolist() == [0] * 6

    def test_rows_that_are_all_equal_get_the_most_frequent_label(self):
        label = np.array([3] * 14 + [1] * 6)
        assert probe(np.full((20, 5), 0.1, dtype=np.float16), label).tolist() == [3] * 20


class TestFolds:
    @pytest.mark.parametrize("counts", [[20, 10], [7, 5, 1], [3, 3, 3, 3], [1, 1]])
    def test_every_label_and_the_rows_as_a_whole_are_spread_evenly(self, counts):
        label = np.repeat(np.arange(len(counts)), counts)
        fold = stratified_folds(label, 5)
        for which in (label == one for one in range(len(counts))):
            sizes = np.bincount(fold[which], minlength=5)
            assert sizes.max() - sizes.min() <= 1
        sizes = np.bincount(fold, minlength=5)
        assert sizes.max() - sizes.min() <= 1

    def test_rows_of_a_label_are_shuffled(self):
        assert (np.diff(stratified_folds(np.zeros(100, dtype=int), 5)) % 5 != 1).any()
