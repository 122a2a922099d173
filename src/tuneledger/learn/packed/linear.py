"""Linear layers side by side as one product, in a type of its own."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from tuneledger.learn.packed import native


def linear(values: torch.Tensor, *modules: nn.Linear) -> torch.Tensor:
    """The outputs of `modules` for the same values, one beside the other; computed in the type of `values`.

    A weight's gradient is computed in that type too, and in the order in which the weight is stored, where autograd's
    own comes transposed and has to be turned around. If the weight's `grad_dtype` asks for another, torch casts it.
    """
    return _Linear.apply(values, *(module.weight for module in modules), *(module.bias for module in modules))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        weight, bias = _joined(parameters, values.dtype)
        ctx.save_for_backward(values, weight)
        ctx.sizes = [len(part) for part in parameters[: len(parameters) // 2]]
        return nn.functional.linear(values, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values, weight = ctx.saved_tensors
        to_values = gradient @ weight if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:]):
            return to_values, *[None] * (2 * len(ctx.sizes))
        to_weight = gradient.t() @ values
        to_bias = native.column_sums(gradient) if native.available(gradient.dtype) else gradient.sum(dim=0)
        if len(ctx.sizes) == 1:
            return to_values, to_weight, to_bias
        return to_values, *to_weight.split(ctx.sizes), *to_bias.split(ctx.sizes)


def _joined(parameters: tuple[torch.Tensor, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """One weight and one bias, of parameters of which the first half are weights."""
    half = len(parameters) // 2
    if native.available(dtype):
        width = parameters[0].shape[1]
        size = width * sum(len(weight) for weight in parameters[:half])
        both = native.joined(parameters)
        return both[:size].view(-1, width), both[size:]
    return _beside(parameters[:half], dtype), _beside(parameters[half:], dtype)


def _beside(parts: tuple[torch.Tensor, ...], dtype: torch.dtype) -> torch.Tensor:
    return parts[0].to(dtype) if len(parts) == 1 else torch.cat([part.to(dtype) for part in parts])
