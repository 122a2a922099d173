"""Linear layers side by side as one product, in a type of its own."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd.function import once_differentiable


def linear(values: torch.Tensor, *modules: nn.Linear) -> torch.Tensor:
    """The outputs of `modules` for the same values, one beside the other; computed in the type of `values`.

    A weight's gradient is computed in that type too, and in the order in which the weight is stored, where autograd's
    own comes transposed and has to be turned around. If the weight's `grad_dtype` asks for another, torch casts it.
    """
    return _Linear.apply(values, *(p for module in modules for p in (module.weight, module.bias)))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        weight, bias = (_joined(parameters[kind::2], values.dtype) for kind in (0, 1))
        ctx.save_for_backward(values, weight)
        ctx.sizes = [len(part) for part in parameters[::2]]
        return nn.functional.linear(values, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values, weight = ctx.saved_tensors
        to_values = gradient @ weight if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:]):
            return to_values, *[None] * (2 * len(ctx.sizes))
        weights = (gradient.t() @ values).split(ctx.sizes)
        biases = gradient.sum(dim=0).split(ctx.sizes)
        return to_values, *(part for pair in zip(weights, biases, strict=True) for part in pair)


def _joined(parts: tuple[torch.Tensor, ...], dtype: torch.dtype) -> torch.Tensor:
    return parts[0].to(dtype) if len(parts) == 1 else torch.cat([part.to(dtype) for part in parts])
