"""Loaders whose batches depend on (seed, epoch) alone and which continue in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader

from tuneledger.errors import UserError
from tuneledger.text.batches import Example, TokenizedSplit, collate, evaluation_batches, training_batches

PADDINGS = ("longest", "max_length")


class EpochBatches:
    """Batch sampler of one training: `epoch` chooses the permutation, `start` skips batches already seen."""

    def __init__(self, lengths: np.ndarray, batch_size: int, group_by_length: bool, seed: int):
        self.epoch = 0
        self.start = 0
        self._batches = partial(training_batches, lengths, batch_size, group_by_length=group_by_length, seed=seed)
        self._count = -(-len(lengths) // batch_size)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._batches(epoch=self.epoch)[self.start :])


class ResumableLoader(DataLoader):
    """A DataLoader that Lightning can save and restore in the middle of an epoch.

    Lightning stores `state_dict()` in each checkpoint and hands it back before the first batch after a resume,
    save for checkpoints taken at the end of an epoch: for those `batches.epoch` has to be right already.
    """

    def __init__(self, dataset: TokenizedSplit, batches: EpochBatches, **kwargs: Any):
        super().__init__(dataset, batch_sampler=batches, **kwargs)
        self.batches = batches
        self.served = 0

    def state_dict(self) -> dict[str, int]:
        done = self.served >= len(self.batches)
        return {"epoch": self.batches.epoch + done, "batches": 0 if done else self.served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches.epoch, self.batches.start = state["epoch"], state["batches"]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if self.served >= len(self.batches):
            self.batches.epoch += 1
        self.served = self.batches.start
        inner = super().__iter__()
        for batch in inner:
            self.batches.start = 0  # only the first pass after a resume starts in the middle
            self.served += 1
            yield batch


class Batches(pl.LightningDataModule):
    """Training and validation batches as tensors: input_ids, attention_mask, labels, maybe token_type_ids.

    Args:
        train, validation: tokenized splits.
        labels: their names.
        pad_token_id: the tokenizer's.
        max_length: tokens a row where padding is "max_length".
        seed: fixes the order of training batches.
        batch_size, eval_batch_size: examples.
        padding: "longest" (of the batch) or "max_length".
        group_by_length: batches of similar length.
    """

    def __init__(
        self,
        train: TokenizedSplit,
        validation: TokenizedSplit,
        labels: list[str],
        pad_token_id: int,
        max_length: int,
        seed: int,
        *,
        batch_size: int,
        eval_batch_size: int,
        padding: str,
        group_by_length: bool,
    ):
        super().__init__()
        if padding not in PADDINGS:
            raise UserError(f"loader.padding = {padding}: choose {' or '.join(PADDINGS)}")
        for key, size in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if size < 1:
                raise UserError(f"loader.{key} = {size}: give at least 1")
        self.train, self.validation, self.labels = train, validation, labels
        self.eval_batch_size, self.pad_token_id = eval_batch_size, pad_token_id
        self.epoch_batches = EpochBatches(train.lengths, batch_size, group_by_length, seed)
        width = max_length if padding == "max_length" else None
        self.collate = partial(to_tensors, pad_token_id=pad_token_id, width=width)

    def train_dataloader(self) -> ResumableLoader:
        # After a resume trainer.current_epoch is not right yet at this point; the count of batches is.
        processed = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        self.epoch_batches.epoch = processed // len(self.epoch_batches)
        return ResumableLoader(self.train, self.epoch_batches, collate_fn=self.collate)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.validation, batch_sampler=self.validation_batches, collate_fn=self.collate)

    @property
    def validation_batches(self) -> list[np.ndarray]:
        """Row numbers of each validation batch, in the order in which they come."""
        return evaluation_batches(self.validation.lengths, self.eval_batch_size)

    def majority(self) -> tuple[str, float]:
        """The validation split's most frequent label and its share."""
        counts = np.bincount(self.validation.labels, minlength=len(self.labels))
        return self.labels[int(counts.argmax())], float(counts.max() / counts.sum())


def to_tensors(examples: list[Example], *, pad_token_id: int, width: int | None = None) -> dict[str, torch.Tensor]:
    """`text.batches.collate`, as tensors."""
    batch = collate(examples, pad_token_id=pad_token_id, width=width)
    return {name: torch.from_numpy(array) for name, array in batch.items()}
