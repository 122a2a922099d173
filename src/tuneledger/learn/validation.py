"""What a training thought of each validation row after each epoch, for comparing settings and for drawing."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from tuneledger.learn.datamodule import Batches
from tuneledger.learn.representations import seen_by_head
from tuneledger.paths import replacing
from tuneledger.text.batches import restore_order

SAMPLE = 1000  # rows whose representations are kept: more points cannot be told apart in a picture


class ValidationRecord(pl.Callback):
    """Writes one file an epoch into the checkpoint folder, so that a resumed training has all of them.

    Args:
        folder: the run's checkpoint folder.
    """

    def __init__(self, folder: Path, batches: Batches):
        self.folder, self.batches = folder, batches.validation_batches
        self.sample = sample(len(batches.validation))
        self._kept = [np.isin(rows, self.sample) for rows in self.batches]
        self._logits: list[np.ndarray] = []
        self._seen: list[torch.Tensor] = []
        self._hook = ExitStack()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._logits = []
        self._seen = self._hook.enter_context(seen_by_head(module.model))

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: torch.Tensor, batch: Any, batch_idx: int
    ) -> None:
        self._logits.append(outputs.float().cpu().numpy())
        if self._seen:
            seen = module.whole(self._seen[-1].to(module.device), batch).cpu()
            self._seen[-1] = seen[self._kept[batch_idx]]  # the other rows' would only take memory

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._hook.close()
        if not trainer.is_global_zero:
            return
        hidden = np.zeros((len(self.sample), 0), dtype=np.float16)
        if self._seen:
            rows = np.concatenate([batch[kept] for batch, kept in zip(self.batches, self._kept, strict=True)])
            hidden = torch.cat(self._seen).numpy()[np.argsort(rows)].astype(np.float16)
        logits = restore_order(self.batches, iter(self._logits))
        with replacing(epoch_file(self.folder, trainer.current_epoch + 1)) as partial, partial.open("wb") as handle:
            np.savez(handle, logits=logits, hidden=hidden)


def sample(rows: int) -> np.ndarray:
    """Numbers of the rows whose representations are kept: all, or SAMPLE of them, always the same; sorted."""
    if rows <= SAMPLE:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, SAMPLE, replace=False))


def write_validation(file: Path, folder: Path, labels: np.ndarray, epochs: int) -> None:
    """Gather the files of all epochs into one.

    Args:
        file: gets labels (rows,), logits (epochs, rows, labels), sample (sampled,), and hidden (epochs, sampled,
            width), what the last layer saw of the sampled rows; width 0 if it does not see one vector a row.
        folder: the run's checkpoint folder.
        labels: of the validation rows.
    """
    parts = [np.load(epoch_file(folder, epoch + 1), allow_pickle=False) for epoch in range(epochs)]
    arrays = {name: np.stack([part[name] for part in parts]) for name in ("logits", "hidden")}
    with replacing(file) as partial, partial.open("wb") as handle:
        np.savez(handle, labels=labels, sample=sample(len(labels)), **arrays)


def epoch_file(folder: Path, epoch: int) -> Path:
    return folder / "validation" / f"epoch-{epoch}.npz"
