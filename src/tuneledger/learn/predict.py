"""Logits of a saved model for a tokenized split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from tuneledger.learn.packed.bert import classify
from tuneledger.text.batches import TokenizedSplit, collate, evaluation_batches, restore_order


@torch.inference_mode()
def predict(model_dir: Path, tokens: Path, *, batch_size: int, accelerator: str = "auto") -> np.ndarray:
    """Run a saved classifier over one split.

    Args:
        model_dir: a Hugging Face folder with model and tokenizer.
        tokens: Arrow file of the split.
        batch_size: examples at a time.
        accelerator: "cpu", else the accelerator if there is one.

    Returns:
        float32 logits, (rows, labels), in row order.
    """
    transformers_logging.disable_progress_bar()
    model = AutoModelForSequenceClassification.from_pretrained(
        model_dir, dtype=torch.float32, use_safetensors=True, local_files_only=True
    ).eval()
    use_accelerator = accelerator != "cpu" and torch.accelerator.is_available()
    device = torch.accelerator.current_accelerator() if use_accelerator else torch.device("cpu")
    model.to(device)
    pad_token_id = AutoTokenizer.from_pretrained(model_dir, local_files_only=True).pad_token_id
    split = TokenizedSplit(tokens)
    batches = evaluation_batches(split.lengths, batch_size)

    def outputs():
        for rows in batches:
            batch = collate([split[int(row)] for row in rows], pad_token_id=pad_token_id)
            inputs = {k: torch.from_numpy(v).to(device) for k, v in batch.items() if k != "labels"}
            yield classify(model, inputs).float().cpu().numpy()

    return restore_order(batches, outputs())
