from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tuneledger.judge.intervals import bootstrap_means, percentile, wilson


def test_wilson_known_value():
    low, high = wilson(341, 408)
    assert (round(low, 4), round(high, 4)) == (0.7967, 0.8686)


def test_wilson_at_the_edges_stays_within_0_and_1():
    low, high = wilson(0, 10)
    assert low == 0 and high == pytest.approx(0.2775, abs=1e-4)
    assert wilson(10, 10) == pytest.approx((1 - high, 1))


def test_wilson_widens_with_confidence():
    narrow, wide = wilson(30, 40, confidence=0.8), wilson(30, 40, confidence=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_wilson_loads_no_torch():
    code = "import sys, tuneledger.judge.intervals; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_bootstrap_keeps_shapes_and_shares_the_draws():
    values = np.arange(12.0)
    means = bootstrap_means({"one": values, "two": np.column_stack([values, 3 * values])}, resamples=50)
    assert means["one"].shape == (50,) and means["two"].shape == (50, 2)
    np.testing.assert_allclose(means["two"], np.column_stack([means["one"], 3 * means["one"]]))


def test_bootstrap_follows_the_seed_only():
    columns = {"value": np.random.default_rng(1).normal(size=40)}
    first, second = (bootstrap_means(columns, seed=3)["value"] for _ in range(2))
    assert (first == second).all()
    assert (first != bootstrap_means(columns, seed=4)["value"]).any()


def test_bootstrap_spreads_like_the_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    means = bootstrap_means({"value": values}, resamples=4000)["value"]
    assert means.mean() == pytest.approx(values.mean(), abs=0.005)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)


def test_bootstrap_in_chunks(monkeypatch):
    monkeypatch.setattr("tuneledger.judge.intervals._DRAWS_AT_ONCE", 25)
    means = bootstrap_means({"value": np.ones(10)}, resamples=7)
    assert means["value"].tolist() == pytest.approx([1.0] * 7)


def test_percentile_holds_the_estimate():
    values = np.linspace(0, 1, 1001)
    assert percentile(values, 0.5) == pytest.approx((0.025, 0.975))
    assert percentile(values, 0.01) == pytest.approx((0.01, 0.975))
