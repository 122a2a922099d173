"""A learning-rate range test: a few steps of training while the rate rises exponentially.

Each step is judged by the loss on the same few validation examples: the losses of the batches themselves differ by more
than there is to see. (On the default data their spread is 0.1 where the whole fall is 0.05.)

Not Lightning's Tuner.lr_find, though the steps are its Trainer's: that drops all callbacks, and with them the seeds of
dropout; of the losses it gives only a running mean, which begins at half of what it should be and spans 50 steps of 80;
under gradient accumulation it keeps one batch of each step, divided by their number; it goes on after NaN. It also
writes the weights to disk to restore a model that nobody trains on.
"""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tuneledger.errors import Diverged, Interrupted, UserError
from tuneledger.judge.lr_range import blown_up
from tuneledger.learn.checkpoints import StepSeeds
from tuneledger.learn.datamodule import Batches
from tuneledger.learn.history import History, Row
from tuneledger.learn.module import Classifier
from tuneledger.learn.trainer import make_trainer

JUDGING = 32  # validation examples on which each step is judged, in a third of the ramp's time
JUDGED_AT_ONCE = 16
FEWEST_STEPS = 20  # below that smoothing leaves no curve


@dataclass(frozen=True)
class RampRecord:
    """What a ramp leaves behind.

    Attributes:
        start: loss of the judging examples before the first step.
        steps: {step, lr, batch_loss, loss} of each step taken: step from 1, the loss of the step's own batch before
            it, that of the judging examples after it. A loss that is no number is the last.
    """

    start: float
    steps: list[Row]


def ramp(
    module: Classifier,
    batches: Batches,
    seed: int,
    trainer: dict[str, Any],
    *,
    min_lr: float,
    max_lr: float,
    steps: int,
) -> RampRecord:
    """Train `module` while the learning rate rises from `min_lr` to `max_lr`, or until the loss has blown up.

    Args:
        module, batches: as for a training; the module is spent afterwards. Nothing is written.
        seed: fixes dropout.
        trainer: the section of that name. How long to train, what to keep and how often to log have no say here, nor
            have more devices than one.
        steps: optimizer steps; their rates are equally far apart on a log scale.

    Raises:
        UserError: a setting is out of range.
        Interrupted: a signal ended it.
    """
    check_ramp(min_lr=min_lr, max_lr=max_lr, steps=steps)
    history = History(len(batches.validation), every_n_steps=1, on_step=_ignore, on_epoch=_ignore)
    rise = Rise(np.geomspace(min_lr, max_lr, steps), judging(batches), history)
    lightning = make_trainer(
        [StepSeeds(seed), history, rise],
        **{key: trainer[key] for key in ("accelerator", "precision", "accumulate_grad_batches", "gradient_clip_val")},
        devices=1,
        num_nodes=1,
        max_steps=steps,
        max_epochs=-(-steps * trainer["accumulate_grad_batches"] // len(batches.epoch_batches)),
        limit_val_batches=0,
    )
    try:
        with torch.random.fork_rng():
            lightning.fit(module, datamodule=batches)
    except Diverged as end:
        rise.add(end.steps, math.nan, math.nan)
    except SIGTERMException:
        raise Interrupted(signal.SIGTERM) from None
    except SystemExit:  # Lightning's answer to Ctrl-C
        raise Interrupted(signal.SIGINT) from None
    return RampRecord(rise.start, rise.steps)


def check_ramp(*, min_lr: float, max_lr: float, steps: int) -> None:
    """Raise UserError for a ramp that does not rise, or in too few steps to see anything."""
    if not (math.isfinite(min_lr) and min_lr > 0):
        raise UserError(f"lr_find.min_lr = {min_lr}: give a positive number, such as 1e-7")
    if not (math.isfinite(max_lr) and max_lr >= 10 * min_lr):
        raise UserError(f"lr_find.max_lr = {max_lr}: give at least ten times lr_find.min_lr, which is {min_lr}")
    if steps < FEWEST_STEPS:
        raise UserError(f"lr_find.steps = {steps}: give at least {FEWEST_STEPS}")


def judging(batches: Batches) -> list[dict[str, torch.Tensor]]:
    """Validation examples from the shortest to the longest, as batches with little padding; the same for each seed."""
    order = np.argsort(batches.validation.lengths, kind="stable")
    count = min(JUDGING, len(order))
    rows = order[((np.arange(count) + 0.5) * len(order) / count).astype(int)]
    parts = np.array_split(rows, -(-count // JUDGED_AT_ONCE))
    return [batches.collate([batches.validation[int(row)] for row in part]) for part in parts]


class Rise(pl.Callback):
    """Sets the rate of each optimizer step, over whatever the schedule says, and records what the step did.

    Args:
        rates: of the steps in order.
        examples: batches on which steps are judged.
        history: with the losses of the steps' own batches; comes before this among the callbacks.
    """

    def __init__(self, rates: np.ndarray, examples: list[dict[str, torch.Tensor]], history: History):
        self.rates, self.examples, self.history = rates, examples, history
        self.start = math.nan
        self.steps: list[Row] = []

    def add(self, step: int, batch_loss: float, loss: float) -> None:
        self.steps.append({"step": step, "lr": float(self.rates[step - 1]), "batch_loss": batch_loss, "loss": loss})

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.examples = [trainer.strategy.batch_to_device(batch) for batch in self.examples]
        self.start = self._judge(trainer, module)

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = group["scale"] * float(self.rates[trainer.global_step])

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == len(self.steps):
            return  # gradients are still being gathered
        self.add(trainer.global_step, self.history.steps[-1]["loss"], self._judge(trainer, module))
        losses = np.array([row["loss"] for row in self.steps])
        trainer.should_stop = blown_up(self.rates[: len(losses)], losses, self.start)

    @torch.no_grad()
    def _judge(self, trainer: pl.Trainer, module: pl.LightningModule) -> float:
        module.eval()
        with trainer.precision_plugin.forward_context():
            losses = [float(module.training_step(batch, 0)) for batch in self.examples]
        module.train()
        return float(np.average(losses, weights=[len(batch["labels"]) for batch in self.examples]))


def _ignore(row: Row) -> None:
    """The ramp is over before a report on it would be read."""
