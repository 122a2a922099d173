"""A few optimizer steps of a whole model at one constant learning rate."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import torch
from transformers import PreTrainedModel

from tuneledger.learn.datamodule import Batches
from tuneledger.learn.module import Classifier
from tuneledger.learn.optimizer import clip_gradients, make_optimizer


def steps_at(
    model: PreTrainedModel,
    batches: Batches,
    rate: float,
    steps: int,
    *,
    seed: int,
    optim: dict[str, Any],
    loss: dict[str, float],
    clip: float | None,
) -> tuple[list[float], float | None]:
    """Train a copy of the model in float32 on the CPU, where equal input gives equal losses.

    Args:
        batches: one a step, in the order of a training; after the last of an epoch comes the next epoch's first.
        rate: learning rate, the same at each step.
        seed: fixes dropout; equal seeds drop the same at every rate.
        loss: keyword arguments of `learn.loss.summed_loss`.
        optim: keyword arguments of `make_optimizer`; lr, schedule and warmup are replaced.
        clip: norm to which gradients are cut, None for no cut.

    Returns:
        the loss before each step, ending with the first that is not finite, and how far the weights have moved: the
        length of their change over that of the weights at first, None if it is not finite.
    """
    module = Classifier(copy.deepcopy(model).train(), optim, loss)
    optimizer, _ = make_optimizer(module.model, steps, **{**optim, "lr": rate, "schedule": "constant", "warmup": 0.0})
    torch.manual_seed(seed)
    losses: list[float] = []
    for batch in islice(_endless(batches), steps):
        value = module.training_step(batch, 0)
        losses.append(value.item())
        if not math.isfinite(losses[-1]):
            break
        value.backward()
        if clip is not None:
            clip_gradients(optimizer, clip)
        optimizer.step()
        optimizer.zero_grad()
    return losses, _moved(model, module.model)


def _endless(batches: Batches) -> Iterator[dict[str, torch.Tensor]]:
    for epoch in count():
        batches.epoch_batches.epoch = epoch
        for rows in batches.epoch_batches:
            yield batches.collate([batches.train[int(row)] for row in rows])


@torch.no_grad()
def _moved(before: PreTrainedModel, after: PreTrainedModel) -> float | None:
    pairs = list(zip(before.parameters(), after.parameters(), strict=True))
    change = sum(float(((new - old).double() ** 2).sum()) for old, new in pairs)
    share = math.sqrt(change / sum(float((old.double() ** 2).sum()) for old, _ in pairs))
    return share if math.isfinite(share) else None
