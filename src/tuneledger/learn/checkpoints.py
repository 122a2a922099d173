"""Checkpoints from which an interrupted training goes on to bit-identical weights.

What makes that so: the order of batches follows from (seed, epoch), dropout from a seed set before each batch, and
a checkpoint is taken only where an optimizer step and its bookkeeping are complete.
"""

from __future__ import annotations

import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning.fabric.plugins import TorchCheckpointIO
from safetensors import SafetensorError
from torch.distributed import ReduceOp, all_reduce

from tuneledger.errors import Interrupted, UserError
from tuneledger.learn.interrupts import HeldSignals
from tuneledger.paths import remove, replacing

LAST = "last.ckpt"
BEST = "best"
ASK_EVERY = 10  # steps between two questions to other processes whether a signal came
MODES = ("min", "max")
METRICS = ("val_loss", "accuracy", "f1", "epoch")


def check_selection(*, metric: str, mode: str) -> None:
    """Raise UserError unless trainer.select names a figure that every epoch has, and a direction."""
    if metric not in METRICS:
        raise UserError(f"trainer.select.metric = {metric}: choose {', '.join(METRICS)}")
    if mode not in MODES:
        raise UserError(f"trainer.select.mode = {mode}: choose {' or '.join(MODES)}")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk and renames: a power loss leaves the old or the new file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with disk_errors(Path(path)), replacing(Path(path)) as partial:
            torch.save(checkpoint, partial)


def _check_same_start(trainer: pl.Trainer) -> None:
    """Raise UserError, in all processes, where they go on from different checkpoints."""
    ends = torch.tensor([trainer.global_step, -trainer.global_step], device=trainer.strategy.root_device)
    all_reduce(ends, ReduceOp.MAX)
    last, first = int(ends[0]), -int(ends[1])
    if first != last:
        raise UserError(
            f"one process goes on from step {last}, another from step {first}: all machines need the same "
            "checkpoints/, in a folder that they share"
        )


class StepSeeds(pl.Callback):
    """Seeds torch before each batch from (seed, batches seen, process), so that dropout needs no saved state."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int):
        seen = trainer.current_epoch * trainer.num_training_batches + batch_idx
        # Mixed into 32 bits, since torch's CPU generator takes no more of a seed.
        which = [trainer.global_rank] if trainer.global_rank else []  # the first as if it were alone
        seed = int(np.random.SeedSequence([self.seed, seen, *which]).generate_state(1)[0])
        if module.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed also walks the stack, for GPUs not yet in use
        else:
            torch.manual_seed(seed)


class Checkpoints(pl.Callback):
    """Saves where a run can go on, keeps the best epoch's model, and stops cleanly after a signal.

    Of several processes the first one writes, and all stop at the same step after a signal to any.

    Args:
        folder: the run's checkpoint folder, the same for all processes; holds last.ckpt and best/ (a Hugging Face
            folder).
        metric, mode: which epoch is best: `metric` as logged, or "epoch"; the earlier one of two equals.
        every_n_steps: optimizer steps between two saves inside an epoch.
        patience: epochs without a better one after which training stops; None: never.
        until_epoch: the epoch after which training pauses, to be gone on with later; None: never.
        stop_signal: gives the number of a signal received since the start, or None.
        before_save: called with the trainer before each save; raises if its state is not worth keeping.
    """

    def __init__(
        self,
        folder: Path,
        *,
        metric: str,
        mode: str,
        every_n_steps: int,
        patience: int | None,
        until_epoch: int | None,
        stop_signal: HeldSignals,
        before_save: Callable[[pl.Trainer], None],
    ):
        check_selection(metric=metric, mode=mode)
        if patience is not None and patience < 1:
            raise UserError(f"trainer.patience = {patience}: give at least 1, or null")
        if patience is not None and metric == "epoch":
            raise UserError("trainer.patience needs a trainer.select.metric that can stop improving, not epoch")
        if every_n_steps < 1:
            raise UserError(f"trainer.checkpoint_every_n_steps = {every_n_steps}: give at least 1")
        self.folder, self.metric, self.mode, self.every = folder, metric, mode, every_n_steps
        self.patience, self.until_epoch = patience, until_epoch
        self.stop_signal, self.before_save = stop_signal, before_save
        self.best_value: float | None = None
        self.best_epoch = 0
        self.out_of_patience = False
        self.epochs_done = 0

    def state_dict(self) -> dict[str, Any]:
        names = ("best_value", "best_epoch", "out_of_patience", "epochs_done")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # As restored from a checkpoint of the last epoch.
        trainer.should_stop = self.out_of_patience or self._paused()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stop_signal.install()  # over Lightning's handler, which ends a run without a checkpoint
        if trainer.world_size > 1:
            _check_same_start(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        if progress.ready >= trainer.num_training_batches:
            return  # the save at the end of the epoch follows, with its validation
        if progress.ready % trainer.accumulate_grad_batches:
            return  # gradients gathered so far are in no checkpoint
        # Of several processes every one waits for the others' answers, and an accelerator for the question.
        asked = trainer.world_size == 1 or trainer.global_step % ASK_EVERY == 0
        signum = self._signal(trainer) if asked else None
        if signum or trainer.global_step % self.every == 0:
            self._save(trainer)
        if signum:
            raise Interrupted(signum)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        signum = self.stop_signal()
        if signum and trainer.world_size == 1:  # others would wait for what this one computes
            raise Interrupted(signum)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        value = float(epoch) if self.metric == "epoch" else float(trainer.callback_metrics[self.metric])
        if self._better(value):
            self.best_value, self.best_epoch = value, epoch
            self.before_save(trainer)
            if not trainer.is_global_zero:
                return
            best = self.folder / BEST
            with disk_errors(best), replacing(best) as folder:
                module.save(folder)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        waited = trainer.current_epoch + 1 - self.best_epoch
        if self.patience is not None and waited >= self.patience:
            trainer.should_stop = self.out_of_patience = True
        self.epochs_done = trainer.current_epoch + 1
        if self._paused():
            trainer.should_stop = True
        self._save(trainer)
        signum = self._signal(trainer)
        if signum and trainer.current_epoch + 1 < trainer.max_epochs and not trainer.should_stop:
            raise Interrupted(signum)

    def _signal(self, trainer: pl.Trainer) -> int | None:
        """A signal received by any process; all of them have to ask at the same step."""
        own = self.stop_signal()
        if trainer.world_size == 1:
            return own
        noted = torch.tensor(own or 0, device=trainer.strategy.root_device)
        all_reduce(noted, ReduceOp.MAX)
        signum = int(noted) or None
        if signum and not own:
            print(f"\n{signal.Signals(signum).name} to another process: saving", flush=True)
        return signum

    def _better(self, value: float) -> bool:
        if self.best_value is None:
            return True
        return value < self.best_value if self.mode == "min" else value > self.best_value

    def _paused(self) -> bool:
        return self.until_epoch is not None and self.epochs_done >= self.until_epoch

    def _save(self, trainer: pl.Trainer) -> None:
        self.before_save(trainer)
        trainer.save_checkpoint(self.folder / LAST)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """OSError that names the file when weights cannot be written; torch and safetensors raise others."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        raise OSError(f"cannot write {path} ({str(error).splitlines()[0]}): is the disk full?") from error


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a run's checkpoint folder; two trainings of the same configuration must not share it.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"a training with exactly this configuration and data is already running (it holds {folder}): "
            "wait for it, or change the seed"
        ) from None
    try:
        yield
    finally:
        lock.release()


def resumable(folder: Path, module: torch.nn.Module, first: bool = True) -> Path | None:
    """The checkpoint to go on from, or None. A damaged one, or one of another shape than `module`, is deleted.

    Args:
        first: whether this is the process of a training that may do so.
    """
    last = folder / LAST
    if not last.exists():
        return None
    try:
        with zipfile.ZipFile(last) as archive:
            damaged = archive.testzip()  # torch.load does not look at the checksums
        if damaged:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        kept = torch.load(last, map_location="cpu", weights_only=True)["state_dict"]
    except Exception as error:  # whatever a damaged zip or pickle raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return _start_over(folder, f"is damaged ({reason})", first)
    # On a GPU all tokens' embeddings are trained, on a CPU those of the tokens in use.
    if {name: value.shape for name, value in kept.items()} != {n: v.shape for n, v in module.state_dict().items()}:
        return _start_over(folder, "is of another shape (from another device or version)", first)
    return last


def _start_over(folder: Path, reason: str, first: bool) -> None:
    if not first:
        return
    print(f"checkpoint {folder / LAST} {reason}: starting over", flush=True)
    remove(folder / LAST)
    remove(folder / BEST)
