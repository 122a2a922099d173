from __future__ import annotations

import math
from itertools import islice
from typing import Any

import pytest
import scratch
import torch

from tuneledger.explore.constant_rate import steps_at


def run(few, rate: float, steps: int, *, clip: float | None = 1.0, **optim: Any) -> tuple[list[float], float | None]:
    module, batches = scratch.make_training(few, optim=optim)
    return steps_at(module.model, batches, rate, steps, seed=1, optim=module.optim, loss=module.loss, clip=clip)


def test_the_model_is_left_as_it_was_and_the_next_rate_starts_from_it(few):
    module, batches = scratch.make_training(few)
    before = {name: tensor.clone() for name, tensor in module.model.state_dict().items()}
    curves = [
        steps_at(module.model, batches, rate, 4, seed=1, optim=module.optim, loss=module.loss, clip=None)[0]
        for rate in (1e-3, 0.5, 1e-3)
    ]
    assert all((tensor == before[name]).all() for name, tensor in module.model.state_dict().items())
    assert curves[0] == curves[2]
    assert curves[0][0] == curves[1][0] and curves[0][1:] != curves[1][1:]


def test_batches_are_a_trainings_and_go_on_into_the_next_epoch(few):
    """At a rate of nearly nothing and without dropout each loss is the untrained model's on that batch."""
    module, batches = scratch.make_training(few, model={"dropout": 0.0})
    losses, _ = steps_at(module.model, batches, 1e-12, 8, seed=1, optim=module.optim, loss=module.loss, clip=None)
    expected = []
    for epoch in (0, 1):
        batches.epoch_batches.epoch = epoch
        for rows in islice(batches.epoch_batches, 8):
            with torch.no_grad():
                batch = batches.collate([batches.train[int(row)] for row in rows])
                expected.append(module.training_step(batch, 0).item())
    assert losses == pytest.approx(expected[:8], abs=1e-5)
    assert len(batches.epoch_batches) == 6


def test_the_rate_is_constant_whatever_the_schedule(few):
    assert run(few, 1e-3, 5, schedule="linear", warmup=0.5) == run(few, 1e-3, 5, schedule="cosine", warmup=0.0)


def test_it_learns_at_a_good_rate_and_moves_farther_at_a_higher_one(few):
    losses, near = run(few, 1e-3, 30)
    assert sum(losses[-6:]) < sum(losses[:6])
    _, far = run(few, 1e-2, 30)
    assert near < far


def test_a_first_step_moves_every_weight_by_the_rate(few):
    """Adam's first step is the sign of the gradient: twice the rate is twice as far."""
    moves = [run(few, rate, 1, weight_decay=0.0, eps=1e-15)[1] for rate in (1e-4, 2e-4)]
    assert moves[1] == pytest.approx(2 * moves[0], rel=1e-3)


def test_it_ends_with_the_first_loss_that_is_no_number(few):
    losses, moved = run(few, 1e30, 10)
    assert len(losses) < 10 and not math.isfinite(losses[-1]) and all(map(math.isfinite, losses[:-1]))
    assert moved is None or math.isfinite(moved)
