"""The model to fine-tune: a pretrained encoder with a classification head."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from tuneledger.errors import UserError
from tuneledger.text.source import hub_errors, locate, verify
from tuneledger.text.tokenize import positions

HEADS = ("classifier.", "score.", "classification_head.")


def load_encoder(
    labels: list[str],
    *,
    path: str,
    revision: str | None,
    sha256: str | None,
    architecture: dict[str, int] | None,
    new_head: bool,
    dropout: float | None,
) -> PreTrainedModel:
    """A sequence classifier in float32 and in training mode; weights it lacks are drawn from torch's generator.

    Only safetensors are read and no code from the model's repository is run.

    Args:
        labels: names in the order of the logits.
        path: see `tuneledger.text.source.locate`.
        revision: commit on the hub.
        sha256: expected digest of model.safetensors.
        architecture: None for pretrained weights; else config entries of a randomly initialised model.
        new_head: replace a classification head that was made for another number of labels.
        dropout: probability for hidden states and attention; None keeps the checkpoint's.

    Raises:
        UserError: no such model, other weights than expected, or a head for another number of labels.
    """
    transformers_logging.disable_progress_bar()  # also for saving, after each better epoch
    source = locate(path)
    if sha256:
        verify(source, sha256)
    with hub_errors(source):
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    made_for = config.num_labels
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in enumerate(labels)}
    _set_dropout(config, dropout)
    if architecture is not None:
        model = _random(config, architecture)
    else:
        model = _pretrained(source, revision, config, made_for, new_head)
    return model.train()  # from_pretrained returns evaluation mode, in which dropout is off


def _random(config: Any, architecture: dict[str, int]) -> PreTrainedModel:
    for key in architecture:
        if not hasattr(config, key):
            raise UserError(f"unknown key model.architecture.{key}: the {config.model_type} config has no such entry")
    config.update(architecture)
    try:
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise UserError(f"model.architecture = {architecture} cannot be built: {error}") from error


def _pretrained(source: str, revision: str | None, config: Any, made_for: int, new_head: bool) -> PreTrainedModel:
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # a new head is meant, not worth a load report
    try:
        with hub_errors(source):
            model, info = AutoModelForSequenceClassification.from_pretrained(
                source,
                revision=revision,
                config=config,
                dtype=torch.float32,  # the default is the checkpoint's own, which may be half precision
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    finally:
        transformers_logging.set_verbosity(verbosity)
    mismatched = [str(entry[0]) for entry in info["mismatched_keys"]]
    if mismatched and not new_head:
        raise UserError(
            f"model {source} has a head for {made_for} labels, the data has {config.num_labels} "
            f"({', '.join(config.id2label.values())}): set model.new_head=true to replace it"
        )
    strange = [name for name in mismatched + list(info["missing_keys"]) if not _replaceable(name)]
    if strange:
        raise UserError(f"model {source} lacks weights of its own architecture: {', '.join(sorted(strange)[:3])}")
    return model


def _replaceable(name: str) -> bool:
    """A head or pooler may be new; anything else missing means that the checkpoint does not fit its config."""
    return name.startswith(HEADS) or ".pooler." in name or "pre_classifier" in name


def _set_dropout(config: Any, dropout: float | None) -> None:
    if dropout is None:
        return
    if not 0 <= dropout < 1:
        raise UserError(f"model.dropout = {dropout}: give a probability from 0 to below 1, or null")
    names = [name for name in config.to_dict() if name.endswith(("dropout", "dropout_prob")) or "_pdrop" in name]
    for name in names:
        setattr(config, name, dropout)


def check_tokens(encoder: PreTrainedModel, *, max_length: int, vocabulary: int) -> None:
    """Raise UserError unless the model takes the tokens that the data was cut into.

    Args:
        max_length: most tokens of an example.
        vocabulary: number of token ids, from 0.
    """
    longest = positions(encoder.config)
    if max_length > longest:
        raise UserError(
            f"tokenizer.max_length = {max_length}, but the model takes at most {longest} tokens: lower it, choose "
            "another model.path, or raise model.architecture.max_position_embeddings where that is set"
        )
    known = encoder.get_input_embeddings().num_embeddings
    if vocabulary > known:
        raise UserError(
            f"tokenizer.path names a tokenizer with {vocabulary} token ids, but the model of model.path has embeddings "
            f"for {known}: use the model's own tokenizer, or raise model.architecture.vocab_size where that is set"
        )


def count_parameters(model: PreTrainedModel) -> dict[str, int]:
    """Numbers of weights: all, trainable, and those outside embedding tables, which the FLOP estimate counts."""
    embedding = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))
    total = sum(p.numel() for p in model.parameters())
    return {
        "parameters": total,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "matrix_parameters": total - embedding,
    }
