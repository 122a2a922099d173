"""The end of both of a layer's blocks: dropout, sum and norm."""

from __future__ import annotations

import torch
from torch import nn

from tuneledger.learn.packed import native
from tuneledger.learn.packed.dropout import Masks, add_dropped


def residual_norm(
    residual: torch.Tensor, values: torch.Tensor, norm: nn.LayerNorm, p: float, masks: Masks
) -> tuple[torch.Tensor, torch.Tensor]:
    """norm(residual + dropout(values)), in float32 and in the type of `values`; all (lines, size)."""
    if native.available(values.dtype):
        return native.residual_norm(residual, values, norm, p, masks)
    normed = norm(add_dropped(residual, values, p, masks))
    return normed, normed.to(values.dtype)
