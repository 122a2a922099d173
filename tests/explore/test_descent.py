from __future__ import annotations

import math
from itertools import islice

import descents
import numpy as np
import pytest

from tuneledger.errors import UserError
from tuneledger.explore.descent import (
    SLOPE,
    check_descent,
    descend,
    factor,
    gradient,
    hessian,
    leaves,
    loss,
    measured_edge,
    minimum,
    plane,
    sharpest,
    standardised,
    surface,
)

SHAPES = [(60, 4, 2), (200, 20, 3), (40, 90, 2), (150, 6, 5)]  # rows, features, labels; the third can be parted


@pytest.fixture(params=SHAPES, ids=str)
def problem(request):
    rows, width, labels = request.param
    return descents.problem(rows, width, labels)


def somewhere(problem, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=problem.start.shape) / 3


class TestDerivatives:
    def test_the_loss_is_that_of_a_hand_count(self):
        problem = descents.problem(rows=3, width=1, penalty=0.5)
        weights = np.array([[1.0, -1.0], [0.5, 0.0]])
        nats = 0.0
        for row, target in zip(problem.columns, problem.targets, strict=True):
            logits = [sum(row[k] * weights[k][label] for k in range(2)) for label in range(2)]
            nats -= math.log(math.exp(logits[target.argmax()]) / sum(map(math.exp, logits)))
        assert loss(problem, weights) == pytest.approx(nats / 3 + 0.25 * (1 + 1 + 0.25))

    def test_at_the_start_every_label_is_as_likely(self, problem):
        assert loss(problem, problem.start) == pytest.approx(math.log(problem.targets.shape[1]))

    def test_the_gradient_is_the_slope_of_the_loss(self, problem):
        weights, direction = somewhere(problem), somewhere(problem, 2)
        step = 1e-6
        slope = (loss(problem, weights + step * direction) - loss(problem, weights - step * direction)) / (2 * step)
        assert (gradient(problem, weights) * direction).sum() == pytest.approx(slope, rel=1e-6)

    def test_the_hessian_is_the_slope_of_the_gradient(self, problem):
        weights, direction = somewhere(problem), somewhere(problem, 2)
        step = 1e-6
        change = gradient(problem, weights + step * direction) - gradient(problem, weights - step * direction)
        assert hessian(problem, weights).matvec(direction.ravel()) == pytest.approx((change / (2 * step)).ravel(), 1e-5)

    def test_the_sharpest_direction_is_the_dense_hessians(self, problem):
        weights = somewhere(problem)
        dense = hessian(problem, weights) @ np.eye(weights.size)
        value, direction = sharpest(problem, weights)
        assert value == pytest.approx(np.linalg.eigvalsh(dense)[-1])
        assert dense @ direction.ravel() == pytest.approx(value * direction.ravel(), abs=1e-8)


class TestMinimum:
    def test_nothing_near_it_is_lower(self, problem):
        lowest = minimum(problem)
        assert np.linalg.norm(gradient(problem, lowest)) <= SLOPE
        for seed in range(10):
            assert loss(problem, lowest + 0.01 * somewhere(problem, seed)) > loss(problem, lowest)

    def test_it_is_scikit_learns(self):
        from sklearn.linear_model import LogisticRegression

        problem = descents.problem(80, 5, 3)
        # Its C multiplies the sum over rows; the bias column is penalised like any other, so none of its own.
        model = LogisticRegression(C=1 / (80 * problem.penalty), fit_intercept=False, tol=1e-10, max_iter=10_000)
        model.fit(problem.columns, problem.targets.argmax(axis=1))
        assert minimum(problem) == pytest.approx(model.coef_.T, abs=1e-5)

    def test_a_long_descent_ends_there(self):
        problem = descents.problem()
        lowest = minimum(problem)
        rate = 1 / sharpest(problem, lowest)[0]
        assert next(islice(descend(problem, rate, problem.start), 2000, None)) == pytest.approx(lowest, abs=1e-8)


class TestEdge:
    def test_the_measured_edge_is_the_computed_one(self, problem):
        lowest = minimum(problem)
        assert measured_edge(problem, lowest) == pytest.approx(2 / sharpest(problem, lowest)[0], rel=0.01)

    @pytest.mark.parametrize("penalty", [0.02, 0.5])
    def test_also_at_other_penalties(self, penalty):
        problem = descents.problem(100, 8, 3, penalty=penalty, seed=5)
        lowest = minimum(problem)
        assert measured_edge(problem, lowest) == pytest.approx(2 / sharpest(problem, lowest)[0], rel=0.01)

    def test_descent_leaves_beyond_it_only(self, problem):
        lowest = minimum(problem)
        edge = 2 / sharpest(problem, lowest)[0]
        assert [leaves(problem, lowest, share * edge) for share in (0.01, 0.5, 0.99, 1.02, 20)] == [
            False, False, False, True, True
        ]  # fmt: skip

    @pytest.mark.parametrize("share", [0.2, 0.8, 1.3])
    def test_one_iteration_multiplies_the_distance_by_the_factor(self, problem, share):
        lowest = minimum(problem)
        value, direction = sharpest(problem, lowest)
        rate = share * 2 / value
        assert factor(problem, lowest, direction, rate) == pytest.approx(1 - rate * value, abs=1e-3)


class TestPlane:
    def test_its_directions_are_at_right_angles_and_the_start_is_below_on_the_left(self, problem):
        lowest = minimum(problem)
        directions = plane(lowest, sharpest(problem, lowest)[1])
        flat = directions.reshape(2, -1)
        assert flat @ flat.T == pytest.approx(np.eye(2), abs=1e-9)
        x, y = ((problem.start - lowest) * directions).sum(axis=(1, 2))
        assert x <= 0 and y < 0

    def test_it_does_not_depend_on_the_sign_of_the_sharpest_direction(self, problem):
        lowest = minimum(problem)
        _, direction = sharpest(problem, lowest)
        assert plane(lowest, -direction) == pytest.approx(plane(lowest, direction))

    def test_the_surface_holds_the_minimum_and_the_start(self, problem):
        lowest = minimum(problem)
        directions = plane(lowest, sharpest(problem, lowest)[1])
        x, y = ((problem.start - lowest) * directions).sum(axis=(1, 2))
        height = surface(problem, lowest, directions, np.array([0.0, x]), np.array([0.0, y, 0.1]))
        assert height.shape == (3, 2)
        assert height[0, 0] == pytest.approx(loss(problem, lowest)) == pytest.approx(height.min())
        # Start and minimum both lie on the plane, so that the surface has the start's own loss.
        assert height[1, 1] == pytest.approx(loss(problem, problem.start))
        assert height[2, 1] == pytest.approx(loss(problem, lowest + x * directions[0] + 0.1 * directions[1]))


class TestStandardised:
    def test_the_training_rows_have_mean_0_and_deviation_1_and_others_go_along(self):
        random = np.random.default_rng(0)
        train, other = random.normal(5, 3, (50, 4)).astype("f4"), random.normal(5, 3, (7, 4)).astype("f4")
        scaled, moved = standardised(train, other)
        assert scaled[:, :-1].mean(axis=0) == pytest.approx(np.zeros(4), abs=1e-12)
        assert scaled[:, :-1].std(axis=0) == pytest.approx(np.ones(4))
        assert (scaled[:, -1] == 1).all() and (moved[:, -1] == 1).all()
        assert moved[:, 0] == pytest.approx((other[:, 0] - train[:, 0].mean()) / train[:, 0].std(), rel=1e-4)

    def test_constant_columns_are_left_out(self):
        train = np.array([[1.0, 0.1, 0, 3], [2.0, 0.1, 0, 1]], dtype=np.float32)
        scaled, moved = standardised(train, np.ones((3, 4), dtype=np.float32))
        assert scaled.shape == (2, 3) and moved.shape == (3, 3)

    def test_features_that_are_all_the_same_are_told(self):
        with pytest.raises(UserError, match="the same features: choose another model"):
            standardised(np.ones((5, 3)))


class TestCheck:
    def test_the_lectures_settings_are_fine(self):
        check_descent(rates=[0.1, 0.01], iterations=50)

    @pytest.mark.parametrize(
        "rates", [[], [0.1, 0.1], [0.1, 0.2, 0.3, 0.4], [0.0], [-0.1], [math.nan], [math.inf], [11]]
    )
    def test_rates_that_give_no_picture(self, rates):
        with pytest.raises(UserError, match=r"descent\.rates = .*: give "):
            check_descent(rates=rates, iterations=50)

    @pytest.mark.parametrize("iterations", [-1, 0, 9, 1001])
    def test_iterations_that_give_no_picture(self, iterations):
        with pytest.raises(UserError, match=r"descent\.iterations = -?\d+: give a whole number from 10 to 1000"):
            check_descent(rates=[0.1], iterations=iterations)
