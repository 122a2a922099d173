"""Embeddings of the tokens in use: an optimizer that passes over all does a third of its work for nothing, or more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.functional import embedding
from transformers import PreTrainedModel

WORTHWHILE = 0.75  # share of the vocabulary in use above which all of it is trained as it is


class UsedEmbedding(nn.Embedding):
    """Takes the place of an embedding for texts of `used` tokens only; others are an error.

    Its last row stands for all that are not in use: no text has it, so an optimizer does to it, which begins as ones,
    what it would do to each of them, which is decay.

    Args:
        whole: the embedding to stand in for.
        used: token ids, ascending, the padding's among them.
        sparse: whether its gradient has the rows of a batch's tokens only.
    """

    def __init__(self, whole: nn.Embedding, used: torch.Tensor, *, sparse: bool):
        rows = torch.cat([whole.weight.detach()[used], torch.ones_like(whole.weight[:1])])
        padding = None if whole.padding_idx is None else int(torch.searchsorted(used, whole.padding_idx))
        super().__init__(*rows.shape, padding_idx=padding, sparse=sparse, _weight=rows)
        self.weight.requires_grad_(whole.weight.requires_grad)
        self.used, self.before = used, whole.weight.detach()
        self.row_of = torch.full((len(self.before),), -1).scatter_(0, used, torch.arange(len(used)))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return embedding(self.row_of[ids], self.weight, self.padding_idx, sparse=self.sparse)

    def whole(self) -> torch.Tensor:
        """The weight, as trained, of the embedding this one stands in for."""
        weight = self.before * self.weight.detach()[-1]
        weight[self.used] = self.weight.detach()[:-1]
        return weight


@contextmanager
def vocabulary_in_use(model: PreTrainedModel, used: torch.Tensor, *, sparse: bool = False) -> Iterator[None]:
    """Within the block the model trains embeddings of `used` tokens, at its end it has its whole vocabulary again.

    Args:
        used: ids of all tokens that come up within the block, ascending.
        sparse: whether the optimizer takes sparse gradients.
    """
    whole = model.get_input_embeddings()
    if whole.padding_idx is not None:  # in batches, if not in texts
        used = torch.cat([used, torch.tensor([whole.padding_idx])]).unique()
    if len(used) > WORTHWHILE * len(whole.weight):
        yield
        return
    part = UsedEmbedding(whole, used, sparse=sparse)
    model.set_input_embeddings(part)
    try:
        yield
    finally:
        with torch.no_grad():
            whole.weight.copy_(part.whole())
        model.set_input_embeddings(whole)


def whole_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The model's state with its whole vocabulary, also within `vocabulary_in_use`."""
    state = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, UsedEmbedding):
            state[f"{name}.weight"] = module.whole()
    return state
