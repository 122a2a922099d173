"""One measurement for rows.py, in a process that imports no more than the task needs."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuneledger.conf import load_yaml
from tuneledger.paths import PARAMS, remove
from tuneledger.stages import prepare as stage

ROOT = Path(__file__).resolve().parents[1]
Count = Callable[[], int | None]  # tokens, once the clock has stopped
SECTION = {
    "format": "files",
    "files": {"train": "train.tsv", "validation": "validation.tsv", "test": None},
    "text": ["sentence1", "sentence2"],
    "label": "label",
}


def prepare(folder: Path, scratch: Path) -> Count:
    """What the stage does, splits as given: read, check, audit, write."""
    return _prepare(folder, scratch, "given")


def prepare_grouped(folder: Path, scratch: Path) -> Count:
    """The same with new splits that share no sentence."""
    return _prepare(folder, scratch, "grouped")


def _prepare(folder: Path, scratch: Path, split: str) -> Count:
    splits, _, _ = stage.prepare(path=str(folder), split=split, **SECTION)
    for name, table in splits.items():
        table.to_parquet(scratch / f"{name}.parquet", index=False)
    return lambda: None


def tokenize(folder: Path, scratch: Path) -> Count:
    """What the stage does for a split."""
    from tuneledger.text import tokenize as text

    counts = text.tokenize(tokenizer(), folder / "train.parquet", scratch / "train.arrow")
    return lambda: counts["tokens"]


def datasets_map(folder: Path, scratch: Path) -> Count:
    """The same by datasets, as its documentation has it: batched, into an Arrow file of its cache."""
    import datasets

    datasets.disable_progress_bars()
    ours = tokenizer()

    def encode(rows: dict[str, list[str]]) -> Any:
        return ours(rows["text_a"], rows["text_b"], truncation="longest_first", return_attention_mask=False)

    texts = datasets.Dataset.from_parquet(str(folder / "train.parquet"), cache_dir=str(scratch))
    encoded = texts.map(encode, batched=True, remove_columns=["text_a", "text_b", "source"])
    return lambda: sum(len(values) for chunk in encoded.data.column("input_ids").chunks for values in chunk)


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
    """Do a task and print what it took: seconds, and the process's largest resident set."""
    scratch = folder.parent / "scratch"
    remove(scratch)
    scratch.mkdir()
    begin = time.perf_counter()
    count = TASKS[task](folder, scratch)
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "peak_gib": peak_gib(), "tokens": count()}))


def peak_gib() -> float:
    """The largest resident set of this process; getrusage's would begin with that of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("folder", type=Path, help="with train.tsv, validation.tsv, and the train split as Parquet")
    chosen = parser.parse_args()
    one(chosen.task, chosen.folder)
