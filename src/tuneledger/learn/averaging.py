"""A running mean of the weights, which is validated and kept in their place."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import torch

from tuneledger.errors import UserError

# Optimizer steps between two updates: each reads and writes all weights, which takes as long as a step of AdamW.
EVERY = 5


def check_average(average: float | None) -> None:
    """Raise UserError for a decay that is none."""
    if average is not None and not 0 < average < 1:
        raise UserError(f"trainer.average = {average}: give a decay between 0 and 1, such as 0.99, or null")


class WeightAverage(pl.Callback):
    """Keeps an exponential moving average of the trained weights, in whose place it stands during validation.

    Comes first among the callbacks, so that a checkpoint has the update of its step. The weights themselves are back
    once an epoch ends, which is after all that looks at a validation and before the epoch's checkpoint. Early on the
    decay is smaller, lest the first weights count for long: (1 + n) / (10 + n) at step n, as in TensorFlow's
    ExponentialMovingAverage.

    Args:
        decay: a step's, as it is after the first steps.
    """

    def __init__(self, decay: float):
        check_average(decay)
        self.decay = decay
        self.average: list[torch.Tensor] = []
        self._updated = 0  # step of the last update

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "updated": self._updated}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average, self._updated = state["average"], state["updated"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.average:
            self.average = [tensor.to(module.device) for tensor in self.average]
        else:
            self.average = [weight.detach().clone() for weight in _weights(module)]

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step % EVERY == 0:
            self._update(trainer.global_step, module)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        if trainer.global_step - self._updated >= min(EVERY, steps):  # an epoch too short for an update
            self._update(trainer.global_step, module)
        self._exchange(module)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._exchange(module)

    @torch.no_grad()
    def _update(self, step: int, module: pl.LightningModule) -> None:
        if step == self._updated:
            return
        decay = min(self.decay, (1 + step) / (10 + step)) ** (step - self._updated)
        torch._foreach_lerp_(self.average, _weights(module), 1 - decay)
        self._updated = step

    @torch.no_grad()
    def _exchange(self, module: pl.LightningModule) -> None:
        for weight, average in zip(_weights(module), self.average, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)


def _weights(module: pl.LightningModule) -> list[torch.Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
