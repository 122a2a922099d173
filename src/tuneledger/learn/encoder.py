"""The model to fine-tune: a pretrained encoder with a classification head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from tuneledger.errors import UserError
from tuneledger.learn.depth import depths, layer_count
from tuneledger.learn.text_pairs import PairClassifier, PairConfig
from tuneledger.text.source import hub_errors, locate, verify
from tuneledger.text.tokenize import positions

HEADS = ("classifier.", "score.", "classification_head.")  # names of their weights


LOADING = {
    "dtype": torch.float32,  # the default is the checkpoint's own, which may be half precision
    "use_safetensors": True,
    "trust_remote_code": False,
}


def load_encoder(
    labels: list[str],
    *,
    path: str,
    revision: str | None,
    sha256: str | None,
    architecture: dict[str, int] | None,
    new_head: bool,
    head: str | None,
    both_orders: bool,
    dropout: float | None,
    frozen_layers: int,
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
        head: None for that of the checkpoint or its family, "pair" for `tuneledger.learn.text_pairs.PairClassifier`.
        both_orders: see there.
        dropout: probability for hidden states and attention; None keeps the checkpoint's.
        frozen_layers: how many of the first layers stay as they are, and with them the embeddings; 0 trains all (Lee
            et al. 2019, arXiv 1911.03090).

    Raises:
        UserError: no such model, other weights than expected, a head for another number of labels, or a value out of
            its range.
    """
    transformers_logging.disable_progress_bar()  # also for saving, after each better epoch
    source = locate(path)
    if sha256:
        verify(source, sha256)
    with hub_errors(source):
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    made_for, has_pair_head = config.num_labels, isinstance(config, PairConfig)
    encoder = config.encoder if has_pair_head else config
    _set_dropout(encoder, dropout)
    if architecture is not None:
        _reshape(encoder, architecture)
    if head == "pair" or (has_pair_head and dropout is not None):
        config = _pair_config(encoder, both_orders if head else config.both_orders)
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in enumerate(labels)}
    if architecture is not None:
        model = _random(config, architecture)
    elif head == "pair" and not has_pair_head:
        model = _with_pair_head(source, revision, config)
    else:
        model = _pretrained(source, revision, config, made_for, new_head)
    _freeze(model, frozen_layers)
    return model.train()  # from_pretrained returns evaluation mode, in which dropout is off


def check_head(*, head: str | None, both_orders: bool, texts: int) -> None:
    """Raise UserError for a head that there is not, or that takes other data.

    Args:
        texts: how many each example has.
    """
    if head not in (None, "pair"):
        raise UserError(f"model.head = {head}: choose pair, or null for the checkpoint's own")
    if head == "pair" and texts != 2:
        raise UserError(f"model.head = pair compares two texts, but data.text names {texts}: set model.head=null")
    if both_orders and head != "pair":
        raise UserError("model.both_orders = true needs model.head=pair")


def check_pairs(model: PreTrainedModel, *, texts: int, types: bool) -> None:
    """Raise UserError where a model that compares two texts is not given them.

    Args:
        texts: how many each example has.
        types: whether the tokenizer tells by token types which text a token is of.
    """
    if isinstance(model, PairClassifier) and not (texts == 2 and types):
        problem = "its tokenizer gives no token types" if texts == 2 else f"data.text names {texts}"
        raise UserError(f"the model of model.path or model.head compares two texts, but {problem}")


def _pair_config(encoder: PreTrainedConfig, both_orders: bool) -> PairConfig:
    if getattr(encoder, "type_vocab_size", 0) < 2:
        raise UserError(
            f"model.head = pair needs an encoder that tells two texts apart by token types, such as model=minilm; "
            f"a {encoder.model_type} has none: set model.head=null"
        )
    encoder.name_or_path = ""  # or the model's folder on this machine would be written into config.json
    return PairConfig(encoder, both_orders=both_orders, head_dropout=getattr(encoder, "hidden_dropout_prob", 0.1))


def _with_pair_head(source: str, revision: str | None, config: PairConfig) -> PairClassifier:
    model = PairClassifier(config)
    with hub_errors(source), _no_load_report():
        encoder, info = AutoModel.from_pretrained(
            source, revision=revision, config=config.encoder, output_loading_info=True, **LOADING
        )
    _check_complete(source, list(info["missing_keys"]))
    model.encoder.load_state_dict({name: w for name, w in encoder.state_dict().items() if ".pooler." not in f".{name}"})
    return model


def _freeze(model: PreTrainedModel, layers: int) -> None:
    there = layer_count(model)
    if layers and there != model.base_model.config.num_hidden_layers:
        raise UserError(
            f"model.frozen_layers = {layers}: the layers of this {model.config.model_type} share weights, set 0"
        )
    if not isinstance(layers, int) or not 0 <= layers <= there:
        raise UserError(f"model.frozen_layers = {layers}: give 0 to {there}, the layers of this model")
    for depth, parameter in depths(model):
        if layers and depth > there - layers:
            parameter.requires_grad_(False)


def _reshape(config: PreTrainedConfig, architecture: dict[str, int]) -> None:
    for key in architecture:
        if not hasattr(config, key):
            raise UserError(f"unknown key model.architecture.{key}: the {config.model_type} config has no such entry")
    config.update(architecture)


def _random(config: PreTrainedConfig, architecture: dict[str, int]) -> PreTrainedModel:
    try:
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise UserError(f"model.architecture = {architecture} cannot be built: {error}") from error


@contextmanager
def _no_load_report() -> Iterator[None]:
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # a new head is meant, not worth a report
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _pretrained(source: str, revision: str | None, config: Any, made_for: int, new_head: bool) -> PreTrainedModel:
    with hub_errors(source), _no_load_report():
        model, info = AutoModelForSequenceClassification.from_pretrained(
            source,
            revision=revision,
            config=config,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **LOADING,
        )
    mismatched = [str(entry[0]) for entry in info["mismatched_keys"]]
    if mismatched and not new_head:
        raise UserError(
            f"model {source} has a head for {made_for} labels, the data has {config.num_labels} "
            f"({', '.join(config.id2label.values())}): set model.new_head=true to replace it"
        )
    _check_complete(source, mismatched + list(info["missing_keys"]))
    return model


def _check_complete(source: str, missing: list[str]) -> None:
    strange = [name for name in missing if not _replaceable(name)]
    if strange:
        raise UserError(f"model {source} lacks weights of its own architecture: {', '.join(sorted(strange)[:3])}")


def _replaceable(name: str) -> bool:
    """A head or pooler may be new; anything else missing means that the checkpoint does not fit its config."""
    return name.startswith(HEADS) or ".pooler." in f".{name}" or "pre_classifier" in name


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
    longest = positions(encoder.base_model.config)
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
    """Numbers of weights: all and trainable, each also without embedding tables, as the FLOP estimate counts them."""
    tables = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]

    def count(weights: Iterable[torch.Tensor], trained: bool) -> int:
        return sum(weight.numel() for weight in weights if weight.requires_grad or not trained)

    total, trainable = (count(model.parameters(), trained) for trained in (False, True))
    return {
        "parameters": total,
        "trainable_parameters": trainable,
        "matrix_parameters": total - count(tables, trained=False),
        "trainable_matrix_parameters": trainable - count(tables, trained=True),
    }
