"""How far below the head each of a model's parameters lies."""

from __future__ import annotations

import re

import torch

# The number in a parameter's name in a stack of layers, as in encoder.layer.3.output.dense.weight.
LAYER = re.compile(r"\.(\d+)\.")


def layer_count(model: torch.nn.Module) -> int:
    """Layers of the stack, by the names of its parameters."""
    return 1 + max((number for name, _ in model.named_parameters() if (number := _layer(name)) is not None), default=-1)


def depths(model: torch.nn.Module) -> list[tuple[int, torch.nn.Parameter]]:
    """Each parameter with its depth: 0 in the head, 1 in the last layer, and so on down to the embeddings."""
    tables = (module for module in model.modules() if isinstance(module, torch.nn.Embedding))
    embeddings = {id(parameter) for table in tables for parameter in table.parameters()}
    layers = layer_count(model)
    found = []
    for name, parameter in model.named_parameters():
        number = _layer(name)
        at_the_bottom = id(parameter) in embeddings or "embed" in name  # also their normalisation
        found.append(((layers + 1) * at_the_bottom if number is None else layers - number, parameter))
    return found


def _layer(name: str) -> int | None:
    number = LAYER.search(name)
    return int(number[1]) if number else None
