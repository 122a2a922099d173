"""A classifier for pairs of texts that also compares what its encoder makes of either text.

Imports nothing of this project: MLflow copies the file into a logged model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

Inputs = dict[str, torch.Tensor]


class PairConfig(PreTrainedConfig):
    """An encoder's configuration and what the head adds.

    Args:
        encoder: the encoder's configuration, or its entries.
        both_orders: train on either order of a pair, drawn anew each time, and answer with the mean of both.
        head_dropout: probability before either layer of the head.
    """

    model_type = "text-pair"
    sub_configs: ClassVar = {"encoder": AutoConfig}

    def __init__(
        self,
        encoder: PreTrainedConfig | dict[str, Any] | None = None,
        both_orders: bool = False,
        head_dropout: float = 0.1,
        **rest: Any,
    ):
        if isinstance(encoder, dict):
            encoder = AutoConfig.for_model(**encoder)
        self.encoder = encoder
        self.both_orders = both_orders
        self.head_dropout = head_dropout
        super().__init__(**rest)


class PairClassifier(PreTrainedModel):
    """Logits from the first token's hidden state, and from |u - v| and u * v of the texts' mean hidden states u and v.

    The comparison is that of Conneau et al. 2017 (arXiv 1705.02364), section 3.1, with texts that have seen each other.
    """

    config_class = PairConfig
    base_model_prefix = "encoder"

    def __init__(self, config: PairConfig):
        super().__init__(config)
        self.encoder = AutoModel.from_config(config.encoder, dtype=torch.float32)
        if hasattr(self.encoder, "pooler"):
            self.encoder.pooler = None  # computes what nobody reads
        size = config.encoder.hidden_size
        self.dense = nn.Linear(3 * size, size)
        self.classifier = nn.Linear(size, config.num_labels)
        self.dropout = nn.Dropout(config.head_dropout)
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> SequenceClassifierOutput:
        """`logits` of a padded batch; see there."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}

        def encode(inputs: Inputs) -> torch.Tensor:
            return self.encoder(**inputs).last_hidden_state[inputs["attention_mask"].bool()]

        return SequenceClassifierOutput(logits=self.logits(inputs, encode))

    def logits(self, inputs: Inputs, encode: Callable[[Inputs], torch.Tensor]) -> torch.Tensor:
        """(rows, labels).

        Args:
            inputs: input_ids, attention_mask and token_type_ids (0 up to the first text's end, then 1), (rows, width),
                padded on the right.
            encode: the last hidden states of all tokens, (tokens, size), row after row; `inputs` may be others.
        """
        if not self.config.both_orders:
            return self.classifier(self.dropout(self._compare(inputs, encode)))
        if self.training:
            swapped = torch.rand(len(inputs["input_ids"]), device=self.device) < 0.5
            return self.classifier(self.dropout(self._compare(swap(inputs, swapped), encode)))
        everywhere = torch.ones(len(inputs["input_ids"]), dtype=torch.bool, device=self.device)
        orders = [self._compare(order, encode) for order in (inputs, swap(inputs, everywhere))]
        return self.classifier((orders[0] + orders[1]) / 2)  # linear, so these are the mean logits

    def _compare(self, inputs: Inputs, encode: Callable[[Inputs], torch.Tensor]) -> torch.Tensor:
        """What the classifier sees of each pair, (rows, size)."""
        tokens = encode(inputs)
        real = inputs["attention_mask"].bool()
        rows, size = len(real), tokens.shape[1]
        lengths = real.sum(dim=1)
        row = torch.repeat_interleave(torch.arange(rows, device=self.device), lengths)
        text = 2 * row + inputs["token_type_ids"][real]
        count = torch.bincount(text, minlength=2 * rows).clamp(min=1)[:, None]
        means = (tokens.new_zeros(2 * rows, size).index_add(0, text, tokens) / count).view(rows, 2, size)
        first, second = means.unbind(dim=1)
        features = torch.cat([tokens[lengths.cumsum(0) - lengths], (first - second).abs(), first * second], dim=1)
        return torch.tanh(self.dense(self.dropout(features)))


def swap(inputs: Inputs, rows: torch.Tensor) -> Inputs:
    """The same batch with the two texts of some rows in the other order: first token, second text, first text.

    Args:
        inputs: as for `PairClassifier.logits`.
        rows: which, (rows,).
    """
    real = inputs["attention_mask"].bool()
    second = (inputs["token_type_ids"].bool() & real).sum(dim=1, keepdim=True)
    first = real.sum(dim=1, keepdim=True) - second
    place = torch.arange(real.shape[1], device=real.device).expand_as(real)
    source = torch.where(place <= second, place + first - 1, place - second)
    moved = rows[:, None] & real & (place > 0)
    source = torch.where(moved, source, place)
    types = torch.where(moved, (place > second).long(), inputs["token_type_ids"])
    return {**inputs, "input_ids": inputs["input_ids"].gather(1, source), "token_type_ids": types}


if PairConfig.model_type not in CONFIG_MAPPING:  # as where a logged model is loaded beside the project
    AutoConfig.register(PairConfig.model_type, PairConfig)
    AutoModelForSequenceClassification.register(PairConfig, PairClassifier)
