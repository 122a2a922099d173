"""One measurement for rows.py, in a process that imports no more than the task needs."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

from tuneledger.conf import load_yaml
from tuneledger.paths import PARAMS, remove
from tuneledger.stages import prepare as stage

ROOT = Path(__file__).resolve().parents[1]
Digest = Callable[[], str | None]  # of the tokens, once the clock has stopped
SECTION = {
    "format": "files",
    "files": {"train": "train.tsv", "validation": "validation.tsv", "test": None},
    "text": ["sentence1", "sentence2"],
    "label": "label",
}


class Clock:
    """Seconds within `with`: a task imports and loads before."""

    seconds = 0.0

    def __enter__(self) -> None:
        self.seconds = -time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        self.seconds += time.perf_counter()


def prepare(folder: Path, scratch: Path, clock: Clock) -> Digest:
    """What the stage does, splits as given: read, check, audit, write."""
    return _prepare(folder, scratch, clock, "given")


def prepare_grouped(folder: Path, scratch: Path, clock: Clock) -> Digest:
    """The same with new splits that share no sentence."""
    return _prepare(folder, scratch, clock, "grouped")


def _prepare(folder: Path, scratch: Path, clock: Clock, split: str) -> Digest:
    import pyarrow.parquet  # noqa: F401
    import scipy.sparse.csgraph  # noqa: F401

    with clock:
        splits, _, _ = stage.prepare(path=str(folder), split=split, **SECTION)
        stage.write(splits, scratch)
    return lambda: None


def tokenize(folder: Path, scratch: Path, clock: Clock) -> Digest:
    """What the stage does for a split."""
    from tuneledger.text.batches import TokenizedSplit
    from tuneledger.text.tokenize import tokenize as to_arrow

    ours, target = tokenizer(), scratch / "train.arrow"
    with clock:
        to_arrow(ours, folder / "train.parquet", target)
    return lambda: digest(TokenizedSplit(target).token_chunks())


def datasets_map(folder: Path, scratch: Path, clock: Clock) -> Digest:
    """The same by datasets, as its documentation has it: batched, into an Arrow file of its cache."""
    import datasets

    datasets.disable_progress_bars()
    ours = tokenizer()

    def encode(rows: dict[str, list[str]]) -> Any:
        return ours(rows["text_a"], rows["text_b"], truncation="longest_first", return_attention_mask=False)

    with clock:
        texts = datasets.Dataset.from_parquet(str(folder / "train.parquet"), cache_dir=str(scratch))
        encoded = texts.map(encode, batched=True, remove_columns=["text_a", "text_b", "source"])
    return lambda: digest(chunk.flatten().to_numpy() for chunk in encoded.data.column("input_ids").chunks)


def digest(chunks: Iterable[np.ndarray]) -> str:
    """SHA-256 over all token ids, of which each text's first and last tell where it begins and ends."""
    found = hashlib.sha256()
    for chunk in chunks:
        found.update(chunk.astype(np.int32).tobytes())
    return found.hexdigest()


def tokenizer() -> Any:
    from tuneledger.text import tokenize as text

    return text.load_tokenizer(**load_yaml(ROOT / PARAMS)["tokenizer"])


TASKS = {
    "prepare": prepare,
    "prepare, data.split=grouped": prepare_grouped,
    "tokenize": tokenize,
    "datasets.map": datasets_map,
}


def one(task: str, folder: Path) -> None:
    """Do a task and print what it took: seconds, and the most memory that the process had."""
    scratch = folder.parent / "scratch"
    remove(scratch)
    scratch.mkdir()
    clock = Clock()
    with Watch() as watch:
        tokens = TASKS[task](folder, scratch, clock)
    peaks = {"own_gib": watch.largest / 2**20, "peak_gib": resident("VmHWM") / 2**20}
    print(json.dumps({"seconds": clock.seconds, **peaks, "tokens_sha256": tokens()}))


class Watch(Thread):
    """The largest of this process's own memory, KiB: what is resident but for pages of files."""

    largest = 0

    def __enter__(self) -> Watch:
        self.ended = Event()
        self.start()
        return self

    def run(self) -> None:
        while not self.ended.wait(0.01):
            self.largest = max(self.largest, resident("RssAnon"))

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self.join()


def resident(name: str) -> int:
    """A line of this process's status, KiB; getrusage's figures would begin with those of the process before it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("folder", type=Path, help="with train.tsv, validation.tsv, and the train split as Parquet")
    chosen = parser.parse_args()
    one(chosen.task, chosen.folder)
