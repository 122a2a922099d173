from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.classification import BinaryF1Score, MulticlassAccuracy, MulticlassF1Score
from torchmetrics.functional.classification import multiclass_calibration_error

from tuneledger.judge.metrics import (
    NAMES,
    _columns,
    _from_means,
    label_scores,
    majority_baseline,
    probabilities,
    scores,
)


def random_data(labels: int, rows: int = 301, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    label = generator.integers(labels, size=rows)
    return label, (generator.normal(size=(rows, labels)) + np.eye(labels)[label]).astype(np.float32)


@pytest.mark.parametrize("labels", [2, 3, 7])
def test_agrees_with_torchmetrics(labels):
    label, logits = random_data(labels)
    result = scores(label, logits)
    target, predicted = torch.tensor(label), torch.tensor(logits).argmax(dim=1)
    f1 = BinaryF1Score() if labels == 2 else MulticlassF1Score(labels, average="macro")
    assert result["accuracy"] == pytest.approx(MulticlassAccuracy(labels, average="micro")(predicted, target).item())
    assert result["f1"] == pytest.approx(f1(predicted, target).item(), abs=1e-6)
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits), target)
    assert result["loss"] == pytest.approx(loss.item(), abs=1e-6)
    ece = multiclass_calibration_error(torch.tensor(probabilities(logits)), target, labels, n_bins=15)
    assert result["ece"] == pytest.approx(ece.item(), abs=1e-6)


def test_macro_f1_leaves_out_labels_that_do_not_occur_as_torchmetrics_does():
    label, predicted = np.array([0, 0, 1, 1, 4]), np.array([0, 1, 1, 1, 0])
    theirs = MulticlassF1Score(6, average="macro")(torch.tensor(predicted), torch.tensor(label)).item()
    assert label_scores(label, predicted, labels=6)["f1"] == pytest.approx(theirs)


@pytest.mark.parametrize("labels", [2, 4])
def test_loss_and_brier_agree_with_sklearn(labels):
    label, logits = random_data(labels)
    probability, result = probabilities(logits), scores(label, logits)
    assert result["loss"] == pytest.approx(log_loss(label, probability, labels=range(labels)))
    theirs = brier_score_loss(label, probability[:, 1] if labels == 2 else probability, labels=range(labels))
    assert result["brier"] == pytest.approx(theirs)


@pytest.mark.parametrize("labels", [2, 5])
def test_resampled_scores_are_the_scores_of_the_resample(labels):
    label, logits = random_data(labels, rows=60)
    drawn = np.random.default_rng(5).integers(60, size=60)
    means = {name: values[drawn].mean(axis=0, keepdims=True) for name, values in _columns(label, logits).items()}
    resampled, again = _from_means(means), scores(label[drawn], logits[drawn])
    for name in ("loss", "f1", "precision", "recall", "ece", "brier"):
        assert resampled[name][0] == pytest.approx(again[name]), name


def test_hand_count():
    label = np.array([1, 1, 1, 0, 0])
    logits = np.array([[0, 1], [0, 1], [1, 0], [0, 1], [1, 0]], dtype=np.float32)
    result = scores(label, logits)
    assert result["accuracy"] == pytest.approx(3 / 5)
    assert result["precision"] == pytest.approx(2 / 3)
    assert result["recall"] == pytest.approx(2 / 3)
    assert result["f1"] == pytest.approx(2 / 3)
    assert result["majority_baseline"] == pytest.approx(3 / 5)


def test_every_score_lies_in_its_interval_and_repeats():
    label, logits = random_data(2)
    result = scores(label, logits)
    assert set(result) == {"majority_baseline"} | {f"{n}{end}" for n in NAMES for end in ("", "_low", "_high")}
    assert all(result[f"{name}_low"] < result[name] < result[f"{name}_high"] for name in NAMES)
    assert scores(label, logits) == result


def test_one_predicted_label_gives_zeros_not_warnings():
    result = scores(np.array([0, 1, 0]), np.array([[9, 0], [9, 0], [9, 0]], dtype=np.float32))
    assert (result["f1"], result["precision"], result["recall"]) == (0, 0, 0)


def test_large_logits_stay_finite():
    result = scores(np.array([0, 1]), np.array([[1e4, 0], [1e4, 0]], dtype=np.float32))
    assert result["loss"] == pytest.approx(5000)


def test_majority_baseline():
    assert majority_baseline(np.array([2, 2, 0, 1])) == 0.5
