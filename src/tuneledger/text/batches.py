"""Tokenized examples, and how they are put into batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

Example = dict[str, np.ndarray]

MEGABATCH = 50  # batches sorted by length together: little padding is left and epochs still differ


class TokenizedSplit:
    """One split, memory-mapped: item i is {input_ids, maybe token_type_ids: (tokens,), label: ()}.

    Attributes:
        names: of what an item has, but for label.
        labels, lengths: class and number of tokens of each row, (rows,).
    """

    def __init__(self, path: Path):
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self.labels = table["label"].to_numpy()
        self.names = [name for name in table.schema.names if name != "label"]
        # Offsets and values as numpy views of the mapped file, one pair a record batch.
        self._chunks = {
            name: [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in table[name].chunks]
            for name in self.names
        }
        chunks = self._chunks["input_ids"]
        self.lengths = np.concatenate([np.diff(offsets) for offsets, _ in chunks])
        self._ends = np.cumsum([len(offsets) - 1 for offsets, _ in chunks])

    def __len__(self) -> int:
        return len(self.labels)

    def token_chunks(self) -> Iterator[np.ndarray]:
        """All token ids, a record batch at a time."""
        return (values[offsets[0] : offsets[-1]] for offsets, values in self._chunks["input_ids"])

    def __getitem__(self, index: int) -> Example:
        chunk = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[chunk - 1]) if chunk else 0)
        example = {"label": self.labels[index]}
        for name, chunks in self._chunks.items():
            offsets, values = chunks[chunk]
            example[name] = values[offsets[row] : offsets[row + 1]]
        return example


def used_ids(splits: list[TokenizedSplit]) -> np.ndarray:
    """Token ids that occur in any of the splits, ascending."""
    found = [np.flatnonzero(np.bincount(chunk)) for split in splits for chunk in split.token_chunks()]
    return np.unique(np.concatenate(found))


def collate(examples: list[Example], *, pad_token_id: int, width: int | None = None) -> dict[str, np.ndarray]:
    """Stack examples into int64 arrays (rows, width), padded on the right.

    Args:
        examples: items of a TokenizedSplit.
        pad_token_id: fills input_ids behind the text; token types and attention_mask are filled with 0.
        width: tokens a row; None takes the longest row's.
    """
    lengths = [len(example["input_ids"]) for example in examples]
    shape = (len(examples), width or max(lengths))
    batch = {"labels": np.array([example["label"] for example in examples], dtype=np.int64)}
    for name in examples[0]:
        if name != "label":
            batch[name] = np.full(shape, pad_token_id if name == "input_ids" else 0, dtype=np.int64)
            for row, example in enumerate(examples):
                batch[name][row, : lengths[row]] = example[name]
    batch["attention_mask"] = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
    return batch


def training_batches(
    lengths: np.ndarray, batch_size: int, *, group_by_length: bool, seed: int, epoch: int
) -> list[np.ndarray]:
    """Row numbers of each batch of one epoch; every row exactly once, fixed by (seed, epoch) alone.

    With `group_by_length`, rows are shuffled, sorted by length within groups of MEGABATCH batches, cut into
    batches, and the batches are shuffled.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    if not group_by_length:
        return _cut(order, batch_size)
    batches: list[np.ndarray] = []
    for group in _cut(order, batch_size * MEGABATCH):
        batches += _cut(group[np.argsort(-lengths[group], kind="stable")], batch_size)
    return [batches[index] for index in random.permutation(len(batches))]


def share(rows: np.ndarray, process: int, processes: int) -> tuple[np.ndarray, int]:
    """One process's part of a batch: each `processes`-th row, from the `process`-th on, counted from 0.

    Returns:
        row numbers, as many in every process, and how many of them are the process's own: where a batch does not
        divide, its first row fills up at the end.
    """
    own = rows[process::processes]
    most = -(-len(rows) // processes)
    return np.concatenate([own, rows[: most - len(own)]]), len(own)


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Row numbers of each batch, longest rows first: least padding, and too large a batch fails at once."""
    return _cut(np.argsort(-lengths, kind="stable"), batch_size)


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def restore_order(batches: list[np.ndarray], outputs: Iterator[np.ndarray]) -> np.ndarray:
    """Outputs computed batch by batch, (rows of the batch, ...), as one array in row order."""
    joined = np.concatenate(list(outputs))
    restored = np.empty_like(joined)
    restored[np.concatenate(batches)] = joined
    return restored
