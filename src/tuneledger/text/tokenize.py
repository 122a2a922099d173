"""Tokenizing prepared texts into a memory-mapped Arrow file, one row an example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from tuneledger.errors import UserError
from tuneledger.paths import replacing
from tuneledger.text.source import hub_errors, locate

ROWS = 1024  # rows tokenized at a time, and so the size of a record batch: bounds memory


def load_tokenizer(*, path: str, revision: str | None, max_length: int) -> Any:
    """The model's tokenizer, set to cut examples at `max_length` tokens.

    Raises:
        UserError: no such model, no vocabulary, no token limit that fits, or max_length beyond the model's positions.
    """
    source = locate(path, "tokenizer.path")
    with hub_errors(source):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
        config = _encoder_config(source, revision)
    if not tokenizer.is_fast:
        raise UserError(f"tokenizer.path = {path}: it has no fast tokenizer (tokenizer.json); choose another model")
    if tokenizer.pad_token_id is None:
        raise UserError(f"tokenizer.path = {path}: it has no padding token; choose an encoder such as model=minilm")
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise UserError(  # what transformers makes up where a model was saved alone
            f"tokenizer.path = {path}: it holds no vocabulary (tokenizer.json); copy the tokenizer's files there, "
            "or name a folder or model that has them"
        )
    longest = positions(config)
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if not special < max_length <= longest:
        raise UserError(
            f"tokenizer.max_length = {max_length}: {path} takes from {special + 1} to {longest} tokens an example"
        )
    tokenizer.model_max_length = max_length
    return tokenizer


def _encoder_config(source: str, revision: str | None) -> PreTrainedConfig:
    """Of a model that `learn.text_pairs` saved, the encoder's, without importing that."""
    entries, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
    if entries.get("model_type") == "text-pair":
        return AutoConfig.for_model(**entries["encoder"])
    return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer's files into a new folder."""
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # the tokenizers library raises no class of its own when it cannot write
        raise UserError(f"cannot write {folder} ({error}): is the disk full?") from error


def positions(config: Any) -> int:
    """How many tokens the model's position embeddings reach, by its config."""
    reach = getattr(config, "max_position_embeddings", None) or 1_000_000
    if config.model_type in {"roberta", "xlm-roberta", "camembert", "mpnet"}:
        return reach - config.pad_token_id - 1  # their positions start behind the padding id
    return reach


def tokenize(tokenizer: Any, source: Path, target: Path) -> dict[str, int]:
    """Tokenize one prepared split into an Arrow file; memory stays bounded by ROWS examples.

    Args:
        tokenizer: as `load_tokenizer` returns it.
        source: Parquet with columns text_a, optionally text_b, and label.
        target: Arrow IPC file to write: input_ids list<int32>, label int64 and, where the model uses it,
            token_type_ids list<int8>; rows in the order of `source`.

    Returns:
        rows, tokens (special ones included), truncated (rows that were cut), longest (tokens of the longest row).
    """
    totals = {"rows": 0, "tokens": 0, "truncated": 0, "longest": 0}
    schema = _schema(tokenizer)
    with (
        pq.ParquetFile(source) as table,
        replacing(target) as partial,
        pa.OSFile(str(partial), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for batch in table.iter_batches(ROWS):
            encoded = _encode(tokenizer, batch)
            columns = {name: pa.array(encoded[name], schema.field(name).type) for name in schema.names[1:]}
            writer.write_batch(pa.record_batch({"label": batch["label"], **columns}, schema=schema))
            lengths = [len(ids) for ids in encoded["input_ids"]]
            totals["rows"] += len(lengths)
            totals["tokens"] += sum(lengths)
            totals["truncated"] += sum(bool(encoding.overflowing) for encoding in encoded.encodings)
            totals["longest"] = max(totals["longest"], *lengths)
    return totals


def _schema(tokenizer: Any) -> pa.Schema:
    fields = [("label", pa.int64()), ("input_ids", pa.list_(pa.int32()))]
    if "token_type_ids" in tokenizer.model_input_names:
        fields.append(("token_type_ids", pa.list_(pa.int8())))
    return pa.schema(fields)


def _encode(tokenizer: Any, batch: pa.RecordBatch) -> Any:
    pair = batch["text_b"].to_pylist() if "text_b" in batch.schema.names else None
    return tokenizer(batch["text_a"].to_pylist(), pair, truncation="longest_first", return_attention_mask=False)
