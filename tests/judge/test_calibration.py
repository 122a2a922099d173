from __future__ import annotations

import numpy as np
import pytest

from tuneledger.judge.calibration import bin_of, calibration, gaps


def test_bins_are_closed_below_and_one_is_in_the_last():
    assert bin_of(np.array([0.0, 0.24, 0.25, 0.99, 1.0]), bins=4).tolist() == [0, 0, 1, 3, 3]


def test_table_of_hand_counted_bins():
    table = calibration(np.array([0.6, 0.7, 0.95]), np.array([True, False, True]), bins=4)
    assert table["bin_low"].tolist() == [0.5, 0.75]
    assert table["bin_high"].tolist() == [0.75, 1.0]
    assert table["rows"].tolist() == [2, 1]
    assert table["confidence"].tolist() == pytest.approx([0.65, 0.95])
    assert table["accuracy"].tolist() == [0.5, 1.0]


def test_gaps_add_up_to_the_tables_error():
    generator = np.random.default_rng(0)
    confidence, correct = generator.uniform(0.5, 1, 200), generator.random(200) < 0.7
    table = calibration(confidence, correct)
    error = (table["rows"] * (table["confidence"] - table["accuracy"]).abs()).sum() / 200
    assert np.abs(gaps(confidence, correct).mean(axis=0)).sum() == pytest.approx(error)
