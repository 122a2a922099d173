"""Logits of a BERT-family classifier, computed for the tokens that are there and no others.

The modules' weights are used as they are; what differs from their own forward pass is the order of the work: texts
lie end to end without padding, one product gives query, key and value, the last layer computes nothing but each
text's first token where that is all the head reads, and dropout draws 15 bits an element.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel

from tuneledger.learn.packed.activation import activate
from tuneledger.learn.packed.attention import attend, attend_from_first
from tuneledger.learn.packed.dropout import Masks, dropped, probability
from tuneledger.learn.packed.layer import computes, whole_layer
from tuneledger.learn.packed.layout import Layout, add_empty_lines, layout_of
from tuneledger.learn.packed.linear import linear
from tuneledger.learn.packed.residual import residual_norm
from tuneledger.learn.text_pairs import PairClassifier

CLASSIFIERS = {
    "BertForSequenceClassification",
    "CamembertForSequenceClassification",
    "ElectraForSequenceClassification",
    "RobertaForSequenceClassification",
    "XLMRobertaForSequenceClassification",
}
ENCODERS = {"BertModel", "ElectraModel"}  # of a PairClassifier


def classify(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What `model(**inputs).logits` gives, (rows, labels), up to rounding and the random numbers of dropout.

    Computed here for classifiers of the BERT family on a CPU, by the model itself for all others.

    Args:
        inputs: input_ids and attention_mask, (rows, width), maybe token_type_ids.
    """
    layout = layout_of(inputs["attention_mask"]) if packable(model) else None
    if layout is None or _moved_by_padding(model, inputs, layout):
        return model(**inputs).logits
    autocast = torch.is_autocast_enabled("cpu")
    batch = _Batch(layout, torch.get_autocast_dtype("cpu") if autocast else torch.float32, Masks())

    def encode(inputs: dict[str, torch.Tensor], last: Callable[..., torch.Tensor]) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):  # every cast is made once and by hand
            return _encode(model.base_model, inputs, batch, last)

    if isinstance(model, PairClassifier):
        return model.logits(inputs, partial(encode, last=_all_tokens))  # whose order of texts changes no layout
    first = encode(inputs, _first_tokens)[:, None]
    pooler = getattr(model.base_model, "pooler", None)
    return model.classifier(first if pooler is None else model.dropout(pooler(first)))


def of_bert_family(model: PreTrainedModel) -> bool:
    """Whether this is a classifier of the BERT family, or of pairs with such an encoder."""
    part, names = (model.base_model, ENCODERS) if isinstance(model, PairClassifier) else (model, CLASSIFIERS)
    return type(part).__name__ in names and type(part).__module__.startswith("transformers.models.")


def packable(model: PreTrainedModel) -> bool:
    """Whether `classify` knows how this model computes."""
    return (
        of_bert_family(model)
        and model.device.type == "cpu"
        and model.dtype == torch.float32
        and not model.base_model.config.is_decoder
        and not model.base_model.encoder.layer[0].gradient_checkpointing
        and type(model.base_model.encoder.layer[0].attention.self.query) is nn.Linear  # no adapter, not quantized
    )


def _moved_by_padding(model: PreTrainedModel, inputs: dict[str, torch.Tensor], layout: Layout) -> bool:
    """RoBERTa counts positions by ids: the padding's id amid a text shifts what follows."""
    padding = getattr(model.base_model.embeddings, "padding_idx", None)
    return padding is not None and bool((layout.pack(inputs["input_ids"]) == padding).any())


@dataclass(frozen=True)
class _Batch:
    """What all layers share: where tokens lie, the type of matrix products, dropout's randomness."""

    layout: Layout
    dtype: torch.dtype
    masks: Masks


def _encode(
    base: nn.Module, inputs: dict[str, torch.Tensor], batch: _Batch, last: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """What `last`, `_first_tokens` or `_all_tokens`, makes of the last layer and of what goes into it."""
    hidden = add_empty_lines(_embed(base.embeddings, inputs, batch), batch.layout)
    low = hidden.to(batch.dtype)
    if hasattr(base, "embeddings_project"):  # ELECTRA's embeddings may be narrower than its layers
        low = linear(low, base.embeddings_project)
        hidden = low.float()
    for layer in base.encoder.layer[:-1]:
        hidden, low = _layer(layer, hidden, low, batch)
    return last(base.encoder.layer[-1], hidden, low, batch)


def _embed(module: nn.Module, inputs: dict[str, torch.Tensor], batch: _Batch) -> torch.Tensor:
    words, columns = batch.layout.pack(inputs["input_ids"]), batch.layout.columns
    types = batch.layout.pack(inputs["token_type_ids"]) if "token_type_ids" in inputs else torch.zeros_like(words)
    # RoBERTa counts positions from behind its padding's id, BERT from 0 and has no such attribute.
    positions = columns + getattr(module, "padding_idx", -1) + 1
    total = module.word_embeddings(words) + module.token_type_embeddings(types) + module.position_embeddings(positions)
    return dropped(module.LayerNorm(total), probability(module.dropout), batch.masks)


def _layer(layer: nn.Module, hidden: torch.Tensor, low: torch.Tensor, batch: _Batch) -> tuple[torch.Tensor, ...]:
    """Hidden states, (lines, hidden), in float32 and in the type of products; given as both too."""
    if computes(layer, low.dtype):
        return whole_layer(layer, hidden, low, batch.layout, batch.masks)
    heads = layer.attention.self
    joint = linear(low, heads.query, heads.key, heads.value)
    mixed = attend(joint, batch.layout, heads.attention_head_size, probability(heads.dropout), batch.masks)
    return _feed_forward(layer, *_residual(layer.attention.output, mixed, hidden, batch), batch)


def _all_tokens(layer: nn.Module, hidden: torch.Tensor, low: torch.Tensor, batch: _Batch) -> torch.Tensor:
    """The last layer's hidden states, (tokens, hidden)."""
    return _layer(layer, hidden, low, batch)[0][: len(batch.layout.tokens)]


def _first_tokens(layer: nn.Module, hidden: torch.Tensor, low: torch.Tensor, batch: _Batch) -> torch.Tensor:
    """The last layer's hidden states of the texts' first tokens, (rows, hidden), and nothing else of that layer."""
    if computes(layer, low.dtype):
        return whole_layer(layer, hidden, low, batch.layout, batch.masks, first_only=True)[0]
    heads, starts = layer.attention.self, batch.layout.starts
    query, joint = linear(low.index_select(0, starts), heads.query), linear(low, heads.key, heads.value)
    dropout = probability(heads.dropout)
    mixed = attend_from_first(query, joint, batch.layout, heads.attention_head_size, dropout, batch.masks)
    first = hidden.index_select(0, starts)
    return _feed_forward(layer, *_residual(layer.attention.output, mixed, first, batch), batch)[0]


def _feed_forward(layer: nn.Module, hidden: torch.Tensor, low: torch.Tensor, batch: _Batch) -> tuple[torch.Tensor, ...]:
    inner = activate(layer.intermediate.intermediate_act_fn, linear(low, layer.intermediate.dense))
    return _residual(layer.output, inner, hidden, batch)


def _residual(
    module: nn.Module, values: torch.Tensor, hidden: torch.Tensor, batch: _Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    dropout = probability(module.dropout)
    return residual_norm(hidden, linear(values, module.dense), module.LayerNorm, dropout, batch.masks)
