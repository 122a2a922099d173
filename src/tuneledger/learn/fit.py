"""Putting a training together: seed, data, model, callbacks, Trainer, fit."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch

from tuneledger.conf import bind
from tuneledger.errors import Interrupted, UserError
from tuneledger.learn.checkpoints import (
    AtomicCheckpointIO,
    Checkpoints,
    StepSeeds,
    check_selection,
    resumable,
)
from tuneledger.learn.datamodule import Batches
from tuneledger.learn.history import History, Meter, Row
from tuneledger.learn.interrupts import held_signals
from tuneledger.learn.module import Classifier

ACCELERATORS = ("auto", "cpu", "gpu")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Fit:
    """What a finished training leaves behind, beside the model in the checkpoint folder's best/.

    Attributes:
        steps, epochs: rows of the record, see `History`.
        best_epoch: the epoch whose weights were kept, counted from 1.
        totals: what it took, see `Meter`.
        precision: as resolved from "auto".
        ended: False if training paused after `until_epoch` and can go on.
    """

    steps: list[Row]
    epochs: list[Row]
    best_epoch: int
    totals: dict[str, float]
    precision: str
    ended: bool


def fit(
    module: Classifier,
    batches: Batches,
    folder: Path,
    seed: int,
    on_step: Callable[[Row], None],
    on_epoch: Callable[[Row], None],
    until_epoch: int | None = None,
    *,
    max_epochs: int,
    accelerator: str,
    precision: str,
    accumulate_grad_batches: int,
    gradient_clip_val: float | None,
    patience: int | None,
    select: dict[str, str],
    checkpoint_every_n_steps: int,
    log_every_n_steps: int,
) -> Fit:
    """Train, from the last checkpoint in `folder` if there is one.

    Args:
        module, batches: model and data.
        folder: where checkpoints go; on return its best/ holds the selected epoch's model.
        seed: fixes dropout; the order of batches is fixed in `batches`.
        on_step, on_epoch: called with each row of the record as it is made.
        until_epoch: pause after this epoch; the learning rate still follows the schedule of all `max_epochs`.
        select: {metric, mode} by which the epoch to keep is chosen.
        The other keywords are Lightning's own, except precision "auto" and `patience` (early stopping, epochs).

    Raises:
        Interrupted: a signal ended the training; the state is saved.
        Diverged: the loss is no longer a number.
        UserError: a setting is out of range.
    """
    if max_epochs < 1 or accumulate_grad_batches < 1:
        raise UserError("trainer.max_epochs and trainer.accumulate_grad_batches must be at least 1")
    if gradient_clip_val is not None and not gradient_clip_val > 0:
        raise UserError(f"trainer.gradient_clip_val = {gradient_clip_val}: give a positive norm, or null")
    check_accelerator(accelerator)
    precision = resolve_precision(precision, accelerator)
    with held_signals() as stop_signal:
        history = History(len(batches.validation), every_n_steps=log_every_n_steps, on_step=on_step, on_epoch=on_epoch)
        meter = Meter()
        checkpoints = Checkpoints(
            folder,
            **bind(check_selection, "trainer.select", select),
            every_n_steps=checkpoint_every_n_steps,
            patience=patience,
            until_epoch=until_epoch,
            stop_signal=stop_signal,
            before_save=history.flush,
        )
        _quiet()
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=1,
            max_epochs=max_epochs,
            precision=precision,
            accumulate_grad_batches=accumulate_grad_batches,
            gradient_clip_val=gradient_clip_val,
            deterministic="warn",
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=sys.stderr.isatty(),
            default_root_dir=folder,
            plugins=[AtomicCheckpointIO()],
            callbacks=[StepSeeds(seed), history, meter, checkpoints],
        )
        checkpoint = resumable(folder)
        if checkpoint:
            print(f"going on from {checkpoint}", flush=True)
        _run(trainer, module, batches, checkpoint, stop_signal)
    ended = checkpoints.out_of_patience or len(history.epochs) == max_epochs
    return Fit(history.steps, history.epochs, checkpoints.best_epoch, meter.totals, precision, ended)


def check_accelerator(accelerator: str) -> None:
    """Raise UserError for an accelerator that is unknown or not here."""
    if accelerator not in ACCELERATORS:
        raise UserError(f"trainer.accelerator = {accelerator}: choose {', '.join(ACCELERATORS)}")
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer.accelerator = gpu: torch finds none here; set auto or cpu, or install a CUDA build")


def resolve_precision(precision: str, accelerator: str) -> str:
    """ "auto" as bf16-mixed where the hardware multiplies in bf16 natively, else as 32-true.

    Raises:
        UserError: an unknown precision, or half precision without a GPU.
    """
    if precision not in PRECISIONS:
        raise UserError(f"trainer.precision = {precision}: choose {', '.join(PRECISIONS)}")
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    if precision == "16-mixed" and not gpu:
        raise UserError("trainer.precision = 16-mixed needs a GPU: set bf16-mixed or 32-true")
    if precision != "auto":
        return precision
    if gpu:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = torch.cpu.get_capabilities()
        native = has.get("avx512_bf16", False) or has.get("amx_bf16", False)
    return "bf16-mixed" if native else "32-true"


def _run(
    trainer: pl.Trainer,
    module: Classifier,
    batches: Batches,
    checkpoint: Path | None,
    stop_signal: Callable[[], int | None],
) -> None:
    try:
        trainer.fit(module, datamodule=batches, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning's own answer to SIGTERM (code 0!) and to a second Ctrl-C
        raise Interrupted(stop_signal() or signal.SIGTERM) from None


def _quiet() -> None:
    """Silence what Lightning says on every start and at every checkpoint; its warnings stay."""
    logging.getLogger("lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*in eval mode.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
