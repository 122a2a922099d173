"""A layer's activation function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers.activations import GELUActivation

from tuneledger.learn.packed import native


def activate(function: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """function(values); (lines, size)."""
    exact_gelu = isinstance(function, GELUActivation) and function.act is torch.nn.functional.gelu
    if exact_gelu and native.available(values.dtype):
        return native.gelu(values)
    return function(values)
