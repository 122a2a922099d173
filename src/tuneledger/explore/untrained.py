"""What a model makes of examples before it is trained."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from tuneledger.learn.datamodule import to_tensors
from tuneledger.learn.encoder import load_encoder
from tuneledger.learn.representations import represent
from tuneledger.text.batches import TokenizedSplit


def untrained(
    labels: list[str],
    tokenized: Path,
    rows: np.ndarray,
    *,
    seed: int,
    model: dict[str, Any],
    batch_size: int,
    accelerator: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Run the model from which training with `seed` starts over some validation rows.

    Args:
        labels: names in the order of the logits.
        tokenized: folder that stage `tokenize` wrote.
        rows: row numbers of the validation split.
        model: keyword arguments of `load_encoder`.
        batch_size: examples at a time.
        accelerator: "cpu", else the accelerator if there is one.

    Returns:
        what the head sees, float32 (rows, width), and logits, (rows, labels), in the order of `rows`.

    Raises:
        UserError: the head does not see one vector an example.
    """
    torch.manual_seed(seed)  # as training does, before the head's weights are drawn
    encoder = load_encoder(labels, **model)
    if accelerator != "cpu" and torch.accelerator.is_available():
        encoder.to(torch.accelerator.current_accelerator())
    tokenizer = AutoTokenizer.from_pretrained(tokenized / "tokenizer", local_files_only=True)
    collate = partial(to_tensors, pad_token_id=tokenizer.pad_token_id)
    split = TokenizedSplit(tokenized / "validation.arrow")
    return represent(encoder, split, rows, batch_size=batch_size, collate=collate)
