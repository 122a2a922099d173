"""A layer's activation function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers.activations import GELUActivation

from tuneledger.learn.packed import native


def activate(function: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """function(values); (lines, size)."""
    if is_exact_gelu(function) and native.available(values.dtype):
        return native.gelu(values)
    return function(values)


def is_exact_gelu(function: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Whether this is x times the normal distribution's probability below x, and not what approximates it."""
    return isinstance(function, GELUActivation) and function.act is torch.nn.functional.gelu
