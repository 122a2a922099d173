"""A whole encoder layer as one step of autograd, by layer.cpp.

Bit for bit what `linear`, `attend`, `activate` and `residual_norm` give one after the other where they use the compiled
kernels too, but for a norm's gradients, which are sums over threads.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from tuneledger.learn.packed import native
from tuneledger.learn.packed.activation import is_exact_gelu
from tuneledger.learn.packed.compiler import kernels
from tuneledger.learn.packed.dropout import Masks, probability
from tuneledger.learn.packed.layout import Layout
from tuneledger.learn.packed.native import at

# Among a layer's parameters each product's weights and biases begin here, and behind the last the norms' do.
PRODUCTS = (0, 6, 8, 10, 12)
COUNT = 16


class Norm(ctypes.Structure):
    """`Norm` of layer.cpp."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("epsilon", ctypes.c_float),
        ("dropout", native.Dropout),
    )


class Layer(ctypes.Structure):
    """`Layer` of layer.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("lines", "tokens", "width", "inner")),
        *((name, ctypes.c_int) for name in ("rows", "head")),
        ("first_only", ctypes.c_bool),
        ("threads", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("lengths", "starts")),
        ("dropout", native.Dropout),
        ("norms", Norm * 2),
        ("parameters", ctypes.c_void_p * PRODUCTS[-1]),
    )


class Gradients(ctypes.Structure):
    """`Gradients` of layer.cpp."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("joint", "mix", "inner", "outer", "norms"))


def computes(layer: nn.Module, dtype: torch.dtype) -> bool:
    """Whether `whole_layer` can compute this layer of an encoder of the BERT family, in products of this type."""
    heads = layer.attention.self
    return (
        native.attends(dtype, heads.attention_head_size)
        and heads.all_head_size == len(layer.output.dense.weight)
        and is_exact_gelu(layer.intermediate.intermediate_act_fn)
        and all(parameter.dtype == torch.float32 and parameter.is_contiguous() for parameter in _parameters(layer))
    )


def whole_layer(
    layer: nn.Module, hidden: torch.Tensor, low: torch.Tensor, layout: Layout, masks: Masks, first_only: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of the next layer, (lines, width), in float32 and in bf16.

    Args:
        layer: one that this `computes`.
        hidden, low: its input in float32 and in bf16, (lines, width).
        first_only: give those of the texts' first tokens alone, (rows, width).

    Gradients of all its parameters are computed as soon as one of them, or its input, needs one.
    """
    parameters = _parameters(layer)
    heads, ends = layer.attention.self, (layer.attention.output, layer.output)
    norms = parameters[PRODUCTS[-1] :]
    task = Layer(
        lines=layout.lines,
        tokens=len(layout.tokens),
        width=hidden.shape[1],
        inner=len(layer.intermediate.dense.weight),
        rows=layout.rows,
        head=heads.attention_head_size,
        first_only=first_only,
        threads=torch.get_num_threads(),
        lengths=layout.lengths.data_ptr(),
        starts=layout.starts.data_ptr(),
        dropout=native.dropout_of(probability(heads.dropout), masks),
        norms=tuple(
            Norm(
                weight.data_ptr(),
                bias.data_ptr(),
                end.LayerNorm.eps,
                native.dropout_of(probability(end.dropout), masks),
            )
            for weight, bias, end in zip(norms[::2], norms[1::2], ends, strict=True)
        ),
        parameters=tuple(parameter.data_ptr() for parameter in parameters[: PRODUCTS[-1]]),
    )
    return _Layer.apply(hidden, low, task, layout, torch.is_grad_enabled(), *parameters)


def _parameters(layer: nn.Module) -> list[torch.Tensor]:
    heads, mix, outer = layer.attention.self, layer.attention.output, layer.output
    products = (heads.query, heads.key, heads.value), (mix.dense,), (layer.intermediate.dense,), (outer.dense,)
    linears = [part for product in products for part in (*(m.weight for m in product), *(m.bias for m in product))]
    return [*linears, *(part for norm in (mix.LayerNorm, outer.LayerNorm) for part in (norm.weight, norm.bias))]


# What no way back needs any more, for the next way there: fresh memory comes in pages that the system clears first.
# One block a layer, as large as the largest batch needs.
_unused: list[torch.Tensor] = []


def release_memory() -> None:
    """Give up what is kept for further batches."""
    _unused.clear()


def _memory(size: int) -> torch.Tensor:
    """At least `size` bytes."""
    with suppress(IndexError):
        if len(block := _unused.pop()) >= size:
            return block
    return torch.empty(size, dtype=torch.uint8)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, low, task: Layer, layout: Layout, way_back: bool, *parameters: torch.Tensor):
        hidden, low, kept = hidden.contiguous(), low.contiguous(), None
        if way_back and any(ctx.needs_input_grad):  # which are the same where gradients are off
            kept = _memory(kernels().layer_bytes(ctypes.byref(task)))
            ctx.save_for_backward(low, *parameters[PRODUCTS[-1] :])  # of the other parameters there are copies
            ctx.task, ctx.kept, ctx.layout = task, kept, layout  # the task points to the layout's memory
            ctx.shapes = [parameter.shape for parameter in parameters]
            ctx.set_materialize_grads(False)
        shape = (task.rows if task.first_only else task.lines, task.width)
        out, low_out = hidden.new_empty(shape), low.new_empty(shape)
        _check(kernels().layer_forward(ctypes.byref(task), at(hidden), at(low), at(kept), at(out), at(low_out)))
        return out, low_out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor | None, low_gradient: torch.Tensor | None) -> tuple:
        low, *norms = ctx.saved_tensors
        if ctx.kept is None:
            raise RuntimeError("there is one way back through a packed layer: the next way there uses its memory again")
        for norm, weight in zip(ctx.task.norms, norms[::2], strict=True):
            norm.weight = weight.data_ptr()
        gradient = None if gradient is None else gradient.contiguous()
        low_gradient = None if low_gradient is None else low_gradient.contiguous()
        to_hidden = torch.empty_like(low, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        to_low = torch.empty_like(low) if ctx.needs_input_grad[1] else None
        bounds = list(zip(PRODUCTS, (*PRODUCTS[1:], COUNT), strict=True))
        sizes = [[shape.numel() for shape in ctx.shapes[begin:end]] for begin, end in bounds]
        joined = [low.new_empty(sum(some)) for some in sizes[:-1]]
        joined.append(low.new_empty(sum(sizes[-1]), dtype=torch.float32))
        _check(
            kernels().layer_backward(
                ctypes.byref(ctx.task),
                at(low),
                at(ctx.kept),
                at(gradient),
                at(low_gradient),
                ctypes.byref(Gradients(*(part.data_ptr() for part in joined))),
                at(to_hidden),
                at(to_low),
            )
        )
        _unused.append(ctx.kept)
        ctx.kept = None
        parts = (part for whole, some in zip(joined, sizes, strict=True) for part in whole.split(some))
        return to_hidden, to_low, None, None, None, *(p.view(shape) for p, shape in zip(parts, ctx.shapes, strict=True))


def _check(reason: bytes | None) -> None:
    if reason is not None:
        raise RuntimeError(f"an encoder layer cannot be computed: {reason.decode(errors='replace')}")
