"""What a classifier makes of each example before its last layer draws the line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import PreTrainedModel

from tuneledger.errors import UserError
from tuneledger.learn.packed.bert import classify
from tuneledger.text.batches import Example, TokenizedSplit, evaluation_batches, restore_order


@contextmanager
def seen_by_head(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Within the block, each forward pass appends what the last layer gets: float32 on the CPU, (rows, width).

    Nothing is appended where the head does not see one vector an example, as in models that generate text.
    """
    heads = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == model.config.num_labels]
    seen: list[torch.Tensor] = []

    def keep(head: torch.nn.Linear, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].ndim == 2:
            seen.append(inputs[0].detach().float().cpu())

    handles = [head.register_forward_pre_hook(keep) for head in heads[-1:]]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def represent(
    model: PreTrainedModel,
    split: TokenizedSplit,
    rows: np.ndarray,
    *,
    batch_size: int,
    collate: Callable[[list[Example]], dict[str, torch.Tensor]],
) -> tuple[np.ndarray, np.ndarray]:
    """What the model's head sees of some rows, and its logits, with dropout off.

    Leaves the model in evaluation mode.

    Args:
        batch_size: examples at a time.
        collate: examples to the model's inputs and labels.

    Returns:
        float32 (rows, width) and (rows, labels), in the order of `rows`.

    Raises:
        UserError: the head does not see one vector an example.
    """
    model.eval()
    batches = evaluation_batches(split.lengths[rows], batch_size)
    logits = []
    with seen_by_head(model) as seen:
        for batch in batches:
            examples = collate([split[int(row)] for row in rows[batch]])
            inputs = {name: tensor.to(model.device) for name, tensor in examples.items() if name != "labels"}
            logits.append(classify(model, inputs).float().cpu())
    if len(seen) != len(batches):
        raise UserError(f"the head of a {model.config.model_type} model does not see one vector a text: no picture")
    return tuple(restore_order(batches, (part.numpy() for part in parts)) for parts in (seen, logits))
