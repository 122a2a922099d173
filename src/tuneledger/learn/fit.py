"""Putting a training together: seed, data, model, callbacks, Trainer, fit."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from transformers import PreTrainedModel

from tuneledger.conf import bind
from tuneledger.errors import Diverged, Interrupted, UserError
from tuneledger.learn.averaging import WeightAverage
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
from tuneledger.learn.optimizer import takes_any_gradient
from tuneledger.learn.packed.bert import of_bert_family, packable
from tuneledger.learn.packed.layer import release_memory
from tuneledger.learn.packed.vocabulary import vocabulary_in_use
from tuneledger.learn.trainer import make_trainer
from tuneledger.learn.validation import ValidationRecord
from tuneledger.text.batches import used_ids


@dataclass(frozen=True)
class Fit:
    """What a finished training leaves behind, beside the model in the checkpoint folder's best/.

    Attributes:
        steps, epochs: rows of the record, see `History`.
        best_epoch: the epoch whose weights were kept, counted from 1.
        totals: what it took, see `Meter`.
        precision: as resolved from "auto".
        ended: False if training paused after `until_epoch` and can go on.
        late_signal: SIGINT or SIGTERM that came when there was nothing left to stop, else None.
    """

    steps: list[Row]
    epochs: list[Row]
    best_epoch: int
    totals: dict[str, float]
    precision: str
    ended: bool
    late_signal: int | None


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
    devices: int,
    num_nodes: int,
    precision: str,
    compile: bool,
    accumulate_grad_batches: int,
    gradient_clip_val: float | None,
    patience: int | None,
    select: dict[str, str],
    average: float | None,
    checkpoint_every_n_steps: int,
    log_every_n_steps: int,
) -> Fit:
    """Train, from the last checkpoint in `folder` if there is one.

    With several devices every process calls this with the same arguments, which gives the same result in each. The
    first one alone writes.

    Args:
        module, batches: model and data.
        folder: where checkpoints go; on return its best/ holds the selected epoch's model.
        seed: fixes dropout; the order of batches is fixed in `batches`.
        on_step, on_epoch: called with each row of the record as it is made.
        until_epoch: pause after this epoch; the learning rate still follows the schedule of all `max_epochs`.
        select: {metric, mode} by which the epoch to keep is chosen.
        compile: the training step, on a GPU; a CPU has kernels of its own, see `tuneledger.learn.packed`.
        average: decay of a running mean of the weights, see `WeightAverage`; None keeps the weights as they are.
        The other keywords are Lightning's own, except precision "auto" and `patience` (early stopping, epochs).

    Raises:
        Interrupted: a signal ended the training; the state is saved.
        Diverged: the loss is no longer a number.
        UserError: a setting is out of range.
    """
    if max_epochs < 1:
        raise UserError(f"trainer.max_epochs = {max_epochs}: give at least 1")
    with held_signals() as stop_signal:
        history = History(len(batches.validation), every_n_steps=log_every_n_steps, on_step=on_step, on_epoch=on_epoch)
        meter = Meter(batches.train.lengths)
        checkpoints = Checkpoints(
            folder,
            **bind(check_selection, "trainer.select", select),
            every_n_steps=checkpoint_every_n_steps,
            patience=patience,
            until_epoch=until_epoch,
            stop_signal=stop_signal,
            before_save=partial(history.flush, weights=True),
        )
        averages = [WeightAverage(average)] if average is not None else []
        trainer = make_trainer(
            [*averages, StepSeeds(seed), history, meter, ValidationRecord(folder, batches), checkpoints],
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            find_unused_parameters=not of_bert_family(module.model),
            precision=precision,
            accumulate_grad_batches=accumulate_grad_batches,
            gradient_clip_val=gradient_clip_val,
            max_epochs=max_epochs,
            default_root_dir=folder,
            plugins=[AtomicCheckpointIO()],
        )
        if compile and trainer.strategy.root_device.type == "cuda":
            check_c_compiler()
            module.compile_training()
        with tokens_in_use(module.model, trainer, batches):
            checkpoint = resumable(folder, module, first=trainer.is_global_zero)
            if checkpoint:
                print(f"going on from {checkpoint}", flush=True)
            _run(trainer, module, batches, checkpoint, stop_signal)
    ended = checkpoints.out_of_patience or len(history.epochs) == max_epochs
    totals, precision = meter.totals, trainer.precision
    return Fit(history.steps, history.epochs, checkpoints.best_epoch, totals, precision, ended, stop_signal())


def check_c_compiler() -> None:
    """Raise UserError if there is none: Triton, which makes a GPU's kernels, compiles with it what calls them."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        raise UserError("trainer.compile needs a C compiler: install gcc or clang, or set trainer.compile=false")


def tokens_in_use(model: PreTrainedModel, trainer: pl.Trainer, batches: Batches) -> AbstractContextManager[None]:
    """Train embeddings of the data's own tokens only, where that is faster and changes nothing."""
    if trainer.strategy.root_device.type != "cpu" or not packable(model):
        return nullcontext()
    used = np.union1d(used_ids([batches.train, batches.validation]), batches.pad_token_id)
    return vocabulary_in_use(model, torch.from_numpy(used), sparse=takes_any_gradient(trainer, model))


def _run(
    trainer: pl.Trainer,
    module: Classifier,
    batches: Batches,
    checkpoint: Path | None,
    stop_signal: Callable[[], int | None],
) -> None:
    gc.collect()
    gc.freeze()  # libraries' million objects stay as they are; looking through them takes 1 to 2 % of a step
    try:
        trainer.fit(module, datamodule=batches, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning's own answer to SIGTERM (code 0!) and to a second Ctrl-C
        raise Interrupted(stop_signal() or signal.SIGTERM, saved=False) from None
    except Exception as error:
        if trainer.world_size > 1 and not isinstance(error, Interrupted | Diverged):
            _end_others(trainer)
        raise
    finally:
        gc.unfreeze()
        release_memory()


def _end_others(trainer: pl.Trainer) -> None:
    """See to it that processes which this one started do not wait for it for ever.

    At its exit, since seconds after one of them has ended so Lightning ends this one.
    """
    launcher = trainer.strategy.launcher
    if launcher is not None:
        atexit.register(launcher.kill, signal.SIGKILL)
