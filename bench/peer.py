"""One run of a peer: transformers.Trainer on the same tokens, as the lecture writes it or tuned by its flags.

Reads data/tokenized, params.yaml and the order file. Writes metrics.json and record.json into --folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from contestants import BATCH_SIZE, EPOCHS
from record import Stopwatch, arguments, weights_digest
from transformers import AutoModelForSequenceClassification as Classifier
from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

from tuneledger.conf import read_params
from tuneledger.errors import exit_code
from tuneledger.judge.metrics import label_scores
from tuneledger.paths import TOKENIZED, write_json
from tuneledger.text.batches import TokenizedSplit
from tuneledger.text.source import locate

AS_WRITTEN = {
    "num_train_epochs": EPOCHS,
    "per_device_train_batch_size": BATCH_SIZE,
    "learning_rate": 5e-5,
    "eval_strategy": "epoch",
    "use_cpu": True,
}
TUNED = AS_WRITTEN | {
    "bf16": True,
    "optim": "adamw_torch_fused",  # also the default
    "train_sampling_strategy": "group_by_length",
    "per_device_eval_batch_size": 64,
    "logging_steps": 50,
    "save_strategy": "no",
    "disable_tqdm": True,
}


class InOrder(torch.utils.data.Sampler):
    """Rows of each epoch as the order file has them; Trainer tells the epoch."""

    def __init__(self, epochs: list[list[int]]):
        self.epochs, self.epoch = epochs, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.epochs[self.epoch])

    def __iter__(self) -> Iterator[int]:
        return iter(self.epochs[self.epoch])


class Peer(Trainer):
    """Trainer that shows each training batch to a stopwatch and, given an order, takes the rows in it."""

    def __init__(self, watch: Stopwatch, order: list[list[int]] | None, **rest: Any):
        super().__init__(callbacks=[Watch(watch)], **rest)
        self.watch, self.order = watch, order

    def _get_train_sampler(self, *dataset: Any) -> torch.utils.data.Sampler:
        return InOrder(self.order) if self.order else super()._get_train_sampler(*dataset)

    def training_step(self, model: Any, inputs: dict[str, torch.Tensor], *rest: Any) -> torch.Tensor:
        self.watch.batch(inputs["labels"])
        return super().training_step(model, inputs, *rest)


class Watch(TrainerCallback):
    """Passes Trainer's events on to the stopwatch."""

    def __init__(self, watch: Stopwatch):
        self.watch = watch

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.watch.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.watch.step()

    def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
        self.watch.evaluation(**{name: metrics[f"eval_{name}"] for name in ("loss", "accuracy", "f1")})


def examples(name: str, tokenizer: Any, width: int | None) -> list[dict[str, Any]]:
    """All rows of a split, padded to `width` tokens if given; in memory, which is faster than the lecture's Dataset."""
    split = TokenizedSplit(TOKENIZED / f"{name}.arrow")
    rows = [{key: values.tolist() for key, values in split[index].items()} for index in range(len(split))]
    if width is None:
        return rows
    padded = tokenizer.pad(rows, "max_length", width, return_tensors="pt")
    return [{key: values[index] for key, values in padded.items()} for index in range(len(rows))]


def scores(prediction: Any) -> dict[str, float]:
    found = label_scores(prediction.label_ids, np.argmax(prediction.predictions, axis=-1), labels=2)
    return {name: found[name] for name in ("accuracy", "f1")}


def main() -> None:
    run, params = arguments(), read_params("model", "tokenizer")
    as_written = run.contestant == "as_written"
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZED / "tokenizer", local_files_only=True)
    width = params["tokenizer"]["max_length"] if as_written else None
    torch.manual_seed(run.seed)  # before the head's weights are drawn, as tuneledger.learn.build does
    model = Classifier.from_pretrained(locate(params["model"]["path"]), num_labels=2, dtype=torch.float32)
    watch = Stopwatch(run.steps)
    watch.weights_sha256 = weights_digest(model)
    flags = AS_WRITTEN if as_written else TUNED
    trainer = Peer(
        watch,
        json.loads(run.order.read_text(encoding="utf-8")) if as_written else None,
        model=model,
        args=TrainingArguments(str(run.folder / "trainer"), seed=run.seed, **flags),
        train_dataset=examples("train", tokenizer, width),
        eval_dataset=examples("validation", tokenizer, width),
        data_collator=None if as_written else DataCollatorWithPadding(tokenizer),
        compute_metrics=scores,
    )
    try:
        trainer.train()
        write_json(run.folder / "metrics.json", trainer.state.log_history)
    finally:
        watch.write(run.folder)


if __name__ == "__main__":
    sys.exit(exit_code(main))
