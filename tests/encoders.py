"""Small models of each kind, and a batch for them."""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
)

from tuneledger.learn.text_pairs import PairConfig

SHAPE = {
    "vocab_size": 120,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 64,
    "num_labels": 3,
    "pad_token_id": 1,
}
FAMILY = {
    "bert": BertConfig(**SHAPE),
    "bert-relu": BertConfig(**SHAPE, hidden_act="relu"),
    "bert-one-layer": BertConfig(**{**SHAPE, "num_hidden_layers": 1}),
    "camembert": CamembertConfig(**SHAPE),
    "electra": ElectraConfig(**SHAPE, embedding_size=16),
    "pair": PairConfig(BertConfig(**SHAPE), num_labels=3),
    "pair-electra": PairConfig(ElectraConfig(**SHAPE, embedding_size=16), num_labels=3),
    "electra-of-one-width": ElectraConfig(**SHAPE, embedding_size=48),
    "roberta": RobertaConfig(**SHAPE, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**SHAPE, type_vocab_size=1),
}
DISTILBERT = DistilBertConfig(
    vocab_size=120, dim=24, hidden_dim=40, n_layers=2, n_heads=3, max_position_embeddings=64, pad_token_id=1
)


def random_model(config: PreTrainedConfig, seed: int = 1) -> PreTrainedModel:
    """With weights so large that tokens, positions and types all matter to the logits."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.train()


def without_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    if isinstance(config, PairConfig):
        return PairConfig(without_dropout(config.encoder), num_labels=config.num_labels, head_dropout=0.0)
    changes = {name: 0.0 for name in config.to_dict() if name.endswith(("dropout", "dropout_prob"))}
    return type(config)(**{**config.to_dict(), **changes})


def batch(lengths: list[int], width: int, types: bool = True) -> dict[str, torch.Tensor]:
    """Texts of random tokens, padded with 1; the second half of each has type 1 if there are types."""
    generator = torch.Generator().manual_seed(sum(lengths))
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(2, 120, mask.shape, generator=generator)
    inputs = {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask}
    if types:
        inputs["token_type_ids"] = mask * (torch.arange(width) >= torch.tensor(lengths)[:, None] // 2)
    return inputs
