"""What is minimised: cross-entropy, smoothed, and with two passes that are to agree."""

from __future__ import annotations

import numpy as np
import pytest
import scratch
import torch
from scipy.special import log_softmax

from tuneledger.errors import UserError
from tuneledger.learn.loss import IGNORED, check_loss, passes, summed_loss

PLAIN = {"label_smoothing": 0.0, "r_drop": 0.0}
LABELS = torch.tensor([0, 2, 1, 2])


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(1))


def by_hand(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> float:
    logs = log_softmax(logits, axis=1)
    target = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
    return float(-(target * logs).sum())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_that_of_the_definition(logits, smoothing):
    found = summed_loss(logits[:4], LABELS, label_smoothing=smoothing, r_drop=0.0)
    assert found.item() == pytest.approx(by_hand(logits[:4].numpy(), LABELS.numpy(), smoothing), rel=1e-6)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_r_drop_is_that_of_the_definition(logits, weight):
    found = summed_loss(logits, LABELS, label_smoothing=0.1, r_drop=weight).item()
    first, second = (log_softmax(part.numpy().astype(float), axis=1) for part in logits.chunk(2))
    apart = (np.exp(first) * (first - second)).sum() + (np.exp(second) * (second - first)).sum()
    entropies = [by_hand(part.numpy(), LABELS.numpy(), 0.1) for part in logits.chunk(2)]
    assert found == pytest.approx(sum(entropies) / 2 + weight * apart / 2, rel=1e-5)


def test_passes_that_agree_have_the_loss_of_one(logits):
    twice = torch.cat([logits[:4], logits[:4]])
    one = summed_loss(logits[:4], LABELS, **PLAIN)
    assert summed_loss(twice, LABELS, label_smoothing=0.0, r_drop=3.0).item() == pytest.approx(one.item(), rel=1e-6)


def test_what_only_fills_up_does_not_count(logits):
    settings = {"label_smoothing": 0.1, "r_drop": 1.0}
    filled = summed_loss(logits, torch.tensor([0, 2, 1, IGNORED]), **settings)
    alone = summed_loss(logits[[0, 1, 2, 4, 5, 6]], LABELS[:3], **settings)
    assert filled.item() == pytest.approx(alone.item(), rel=1e-6)


def test_a_step_with_r_drop_looks_twice_with_different_dropout(few):
    module, batches = scratch.make_training(few, loss={"r_drop": 1.0})
    batch = batches.collate([batches.train[row] for row in range(8)])
    heads: list[torch.Tensor] = []
    module.model.classifier.register_forward_hook(lambda head, inputs, logits: heads.append(logits.detach()))
    module.training_step(batch, 0)
    module.eval()
    module.training_step(batch, 0)
    trained, judged = heads
    assert trained.shape == (16, 2) and judged.shape == (8, 2)
    assert not torch.allclose(trained[:8], trained[8:], atol=1e-4)


def test_what_training_took_counts_both_passes(train, tmp_path):
    plain, dropped = (
        train(tmp_path / str(weight), max_epochs=1, changes={"loss": {"r_drop": weight}}) for weight in (0.0, 1.0)
    )
    assert dropped.totals["padded_tokens"] == 2 * plain.totals["padded_tokens"]
    assert dropped.totals["examples"] == plain.totals["examples"]


@pytest.mark.parametrize(("weight", "count"), [(0.0, 1), (0, 1), (0.1, 2)])
def test_passes(weight, count):
    assert passes(weight) == count


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_smoothing": 1.0}, r"^loss\.label_smoothing = 1\.0: give a share from 0 to below 1$"),
        ({"label_smoothing": -0.1}, r"^loss\.label_smoothing = -0\.1"),
        ({"r_drop": -1.0}, r"^loss\.r_drop = -1\.0: give 0 or a positive weight"),
        ({"r_drop": float("nan")}, r"^loss\.r_drop = nan"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(UserError, match=message):
        check_loss(**{**PLAIN, **change})
