"""The record of a training: the loss of each step, the lecture's table row of each epoch, and what it took."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.nn.utils import get_total_norm

from tuneledger.errors import Diverged, UserError
from tuneledger.judge.intervals import wilson
from tuneledger.learn.loss import passes
from tuneledger.learn.packed.bert import packable

Row = dict[str, float]


class History(pl.Callback):
    """Collects steps and epochs; part of the checkpoint, so that a resumed run's record has no gap.

    Losses stay on the device until `flush`, every `every_n_steps` steps: reading each would stall an accelerator.

    Args:
        validation_rows: examples behind the accuracy, for its 95 % interval.
        every_n_steps: optimizer steps between two reports to `on_step`.
        on_step, on_epoch: called with each reported row.
    """

    def __init__(
        self,
        validation_rows: int,
        *,
        every_n_steps: int,
        on_step: Callable[[Row], None],
        on_epoch: Callable[[Row], None],
    ):
        if every_n_steps < 1:
            raise UserError(f"trainer.log_every_n_steps = {every_n_steps}: give at least 1")
        self.validation_rows, self.every = validation_rows, every_n_steps
        self.on_step, self.on_epoch = on_step, on_epoch
        self.steps: list[Row] = []
        self.epochs: list[Row] = []
        self._epoch_loss = [0.0, 0]  # sum over examples, examples
        self._window: list[tuple[torch.Tensor, int]] = []  # micro-batches of the current optimizer step
        self._pending: list[tuple[int, int, float, list[tuple[torch.Tensor, int]]]] = []
        self._lr = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "epochs": self.epochs, "epoch_loss": self._epoch_loss}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.epochs, self._epoch_loss = state["steps"], state["epochs"], state["epoch_loss"]

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any) -> None:
        self._lr = optimizer.param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning hands the loss over as it went into backward: divided by the batches of an optimizer step.
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches
        self._window.append((loss, len(batch["rows"])))
        reported = self._pending[-1][0] if self._pending else (self.steps[-1]["step"] if self.steps else 0)
        if trainer.global_step > reported:
            self._pending.append((trainer.global_step, trainer.current_epoch + 1, self._lr, self._window))
            self._window = []
            if trainer.global_step % self.every == 0:
                self.flush(trainer)

    def flush(self, trainer: pl.Trainer, weights: bool = False) -> None:
        """Bring pending losses over from the device, and from other processes, all of which call this.

        Args:
            weights: look at these as well. A loss is that before its step, whose gradients may be worse.

        Raises:
            Diverged: one of them is no number; training cannot recover from that.
        """
        losses = [loss for *_, window in self._pending for loss, _ in window]
        means = iter(trainer.strategy.reduce(torch.stack(losses), reduce_op="mean").tolist() if losses else [])
        for step, epoch, lr, window in self._pending:
            rows = sum(rows for _, rows in window)
            total = sum(next(means) * rows for _, rows in window)
            if not math.isfinite(total):
                raise Diverged(
                    f"the loss became {total} at step {step} (epoch {epoch}, learning rate {lr:.3g}): "
                    "lower optim.lr or raise optim.warmup",
                    self.epochs,
                    step,
                )
            self._epoch_loss[0] += total
            self._epoch_loss[1] += rows
            self.steps.append({"step": step, "epoch": epoch, "loss": total / rows, "lr": lr})
            if step % self.every == 0:
                self.on_step(self.steps[-1])
        self._pending = []
        if weights:
            self._check_weights(trainer.lightning_module)

    @torch.no_grad()
    def _check_weights(self, module: pl.LightningModule) -> None:
        norm = float(get_total_norm(list(module.parameters())))  # one number to bring over, not one a tensor
        if not math.isfinite(norm):
            last = self.steps[-1]
            raise Diverged(
                f"the norm of the weights became {norm} at step {last['step']} (epoch {last['epoch']}, learning rate "
                f"{last['lr']:.3g}): lower optim.lr or raise optim.warmup",
                self.epochs,
                last["step"],
            )

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.flush(trainer)
        scores = {name: float(trainer.callback_metrics[name]) for name in ("val_loss", "accuracy", "f1")}
        if not math.isfinite(scores["val_loss"]):
            lr = self.steps[-1]["lr"]
            raise Diverged(
                f"the validation loss became {scores['val_loss']} after step {trainer.global_step} "
                f"(learning rate {lr:.3g}): lower optim.lr",
                self.epochs,
                trainer.global_step,
            )
        low, high = wilson(round(scores["accuracy"] * self.validation_rows), self.validation_rows)
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "train_loss": self._epoch_loss[0] / self._epoch_loss[1],
            "val_loss": scores["val_loss"],
            "accuracy": scores["accuracy"],
            "accuracy_low": low,
            "accuracy_high": high,
            "f1": scores["f1"],
        }
        self._epoch_loss = [0.0, 0]
        self.epochs.append(row)
        self.on_epoch(row)


class Meter(pl.Callback):
    """Measures what training takes; survives a resume, so that interrupted time counts once.

    After fit: seconds (train, validation), examples, padded tokens (real ones alone where padding is not computed),
    the same squared per row (for attention's FLOPs), resumed (number of resumes). All but seconds are of all processes;
    tokens count once for each pass of a step.

    Args:
        lengths: tokens of each training row.
    """

    def __init__(self, lengths: np.ndarray) -> None:
        self.lengths = lengths
        self.totals = {
            "train_seconds": 0.0,
            "validation_seconds": 0.0,
            "examples": 0,
            "padded_tokens": 0,
            "squared_lengths": 0,
            "resumed": 0,
        }
        self._since = 0.0

    def state_dict(self) -> dict[str, Any]:
        return dict(self.totals)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.totals = {**state, "resumed": state["resumed"] + 1}

    def _lap(self, name: str) -> None:
        now = time.perf_counter()
        self.totals[name] += now - self._since
        self._since = now

    def on_train_start(self, *_: Any) -> None:
        self._since = time.perf_counter()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        rows, width = np.tile(batch["rows"], passes(module.loss["r_drop"])), batch["input_ids"].shape[1]
        lengths = self.lengths[rows].astype(np.int64) if packable(module.model) else np.full(len(rows), width)
        self.totals["examples"] += len(batch["rows"])
        self.totals["padded_tokens"] += int(lengths.sum())
        self.totals["squared_lengths"] += int(np.square(lengths).sum())
        self._lap("train_seconds")

    def on_validation_start(self, *_: Any) -> None:
        self._lap("train_seconds")

    def on_validation_end(self, *_: Any) -> None:
        self._lap("validation_seconds")

    def on_train_end(self, *_: Any) -> None:
        self._lap("train_seconds")


def peak_memory_gib() -> float:
    """Largest memory in GiB: the GPU's since training began, else the resident set of this process in its whole life.

    In a sweep whose jobs share a process, the latter is the largest of the jobs so far.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
