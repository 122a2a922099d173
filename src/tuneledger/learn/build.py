"""From settings and a tokenized folder to the module and the batches that a training starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuneledger.conf import bind, flatten
from tuneledger.errors import UserError


def read_meta(tokenized: Path, config: dict[str, Any]) -> dict[str, Any]:
    """meta.json of the tokenized data, if it was made with the data and tokenizer sections of `config`."""
    file = tokenized / "meta.json"
    if not file.exists():
        raise UserError(f"{tokenized} is missing: run `dvc repro tokenize` first")
    meta = json.loads(file.read_text(encoding="utf-8"))
    for section in ("data", "tokenizer"):
        made, asked = flatten(meta[section]), flatten(config[section])
        different = [key for key in {**made, **asked} if made.get(key) != asked.get(key)]
        if different:
            changes = ", ".join(
                f"{section}.{key}={asked.get(key)} (there: {made.get(key)})" for key in sorted(different)
            )
            raise UserError(
                f"{tokenized} was made with other settings than {changes}: "
                "put them into conf/ and run `dvc repro tokenize`, or use `dvc exp run -S`"
            )
    return meta


def build(config: dict[str, Any], meta: dict[str, Any], tokenized: Path) -> tuple[Any, Any]:
    """The Lightning module and data module; of the settings what needs no model is checked before one is loaded."""
    import torch
    from transformers import AutoTokenizer

    from tuneledger.learn.datamodule import Batches
    from tuneledger.learn.encoder import check_head, check_pairs, check_tokens, load_encoder
    from tuneledger.learn.fit import fit
    from tuneledger.learn.loss import check_loss, summed_loss
    from tuneledger.learn.module import Classifier
    from tuneledger.learn.optimizer import check_optim, make_optimizer
    from tuneledger.text.batches import TokenizedSplit

    check_seed(config["seed"])
    trainer = bind(fit, "trainer", config["trainer"])
    loss = bind(summed_loss, "loss", config["loss"])
    check_loss(**loss)
    check_optim(**bind(make_optimizer, "optim", config["optim"]))
    tokenizer = AutoTokenizer.from_pretrained(tokenized / "tokenizer", local_files_only=True)
    batches = Batches(
        TokenizedSplit(tokenized / "train.arrow"),
        TokenizedSplit(tokenized / "validation.arrow"),
        meta["labels"],
        tokenizer.pad_token_id,
        meta["tokenizer"]["max_length"],
        config["seed"],
        **bind(Batches.__init__, "loader", config["loader"]),
    )
    check_batch(config["loader"]["batch_size"], trainer["devices"] * trainer["num_nodes"])
    model = bind(load_encoder, "model", config["model"])
    check_head(head=model["head"], both_orders=model["both_orders"], texts=len(meta["text"]))
    torch.manual_seed(config["seed"])  # before the head's weights are drawn
    encoder = load_encoder(meta["labels"], **model)
    check_pairs(encoder, texts=len(meta["text"]), types="token_type_ids" in batches.train.names)
    check_tokens(encoder, max_length=meta["tokenizer"]["max_length"], vocabulary=len(tokenizer))
    return Classifier(encoder, config["optim"], loss), batches


def check_batch(batch_size: int, processes: int) -> None:
    """Raise UserError unless every process gets an example of a full batch."""
    if batch_size < processes:
        raise UserError(f"loader.batch_size = {batch_size}: {processes} processes train, give at least as many")


def check_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(f"seed = {seed}: give a whole number from 0 to below 2**32")
