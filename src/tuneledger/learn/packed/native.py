"""The compiled kernels as functions of tensors: bf16 values of texts laid end to end."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from tuneledger.learn.packed.compiler import kernels
from tuneledger.learn.packed.dropout import Masks, survival, threshold
from tuneledger.learn.packed.layout import Layout

HEAD_SIZES = (16, 32, 64)


def available(dtype: torch.dtype) -> bool:
    return dtype == torch.bfloat16 and kernels() is not None


def attends(dtype: torch.dtype, size: int) -> bool:
    """Whether there is a kernel for heads of this size."""
    return size in HEAD_SIZES and available(dtype)


def attend(query: torch.Tensor | None, joint: torch.Tensor, layout: Layout, size: int, p: float, masks: Masks):
    """See `tuneledger.learn.packed.attention.attend`; without a query it lies in front of key and value."""
    return _Attend.apply(query, joint, layout, size, p, masks, torch.is_grad_enabled())


def residual_norm(residual: torch.Tensor, values: torch.Tensor, norm: nn.LayerNorm, p: float, masks: Masks):
    """See `tuneledger.learn.packed.residual.residual_norm`."""
    return _ResidualNorm.apply(residual, values, norm.weight, norm.bias, norm.eps, p, masks)


def gelu(values: torch.Tensor) -> torch.Tensor:
    """x times the normal distribution's probability below x, element by element."""
    return _Gelu.apply(values)


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """All numbers of some tensors, one tensor behind the other, in bf16."""
    parts = [_plain(part) for part in parts]
    counts = [part.numel() for part in parts]
    out = torch.empty(sum(counts), dtype=torch.bfloat16)
    addresses = (ctypes.c_void_p * len(parts))(*(part.data_ptr() for part in parts))
    lengths = (ctypes.c_int64 * len(parts))(*counts)
    kernels().join_low(addresses, lengths, len(parts), at(out), torch.get_num_threads())
    return out


def column_sums(values: torch.Tensor) -> torch.Tensor:
    """`values.sum(dim=0)` of a matrix."""
    values = values.contiguous()
    rows, columns = values.shape
    out = values.new_empty(columns)
    threads = torch.get_num_threads()
    kernels().column_sums(at(values), ctypes.c_int64(rows), ctypes.c_int64(columns), at(out), threads)
    return out


class Dropout(ctypes.Structure):
    """`Dropout` of kernels.h."""

    _fields_ = (("seed", ctypes.c_uint64), ("threshold", ctypes.c_int32), ("scale", ctypes.c_float))


def dropout_of(p: float, masks: Masks) -> Dropout:
    return Dropout(masks.seed() if p else 0, threshold(p), 1 / survival(p))


class Attention(ctypes.Structure):
    """`Attention` of kernels.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value")),
        *((name, ctypes.c_int64) for name in ("query_stride", "key_stride")),
        ("lengths", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("rows", "heads")),
        ("first_only", ctypes.c_bool),
        ("dropout", Dropout),
        ("alpha", ctypes.c_float),
        ("weights", ctypes.c_void_p),
        ("threads", ctypes.c_int),
    )


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, joint, layout: Layout, size: int, p: float, masks: Masks, way_back: bool) -> torch.Tensor:
        first_only = query is not None
        width = joint.shape[1] // (2 if first_only else 3)
        heads = width // size
        weights, dropout = None, dropout_of(p, masks)
        if way_back and any(ctx.needs_input_grad):  # which are the same where gradients are off
            cells = kernels().attention_cells(at(layout.lengths), layout.rows, heads, first_only)
            weights = joint.new_empty(cells, dtype=torch.float32)
        out = joint.new_zeros((layout.rows if first_only else layout.lines, width))
        task = _task(query, joint, width, layout, size, dropout, weights)
        kernels().attention_forward(ctypes.byref(task), size, at(out), ctypes.c_int64(width))
        ctx.save_for_backward(query, joint, weights)
        ctx.layout, ctx.size, ctx.dropout, ctx.width = layout, size, dropout, width
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple:
        query, joint, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_joint = torch.zeros_like(joint)
        to_query = None if query is None else torch.zeros_like(query)
        task = _task(query, joint, ctx.width, ctx.layout, ctx.size, ctx.dropout, weights)
        targets = _parts(to_query, to_joint, ctx.width)
        kernels().attention_backward(
            ctypes.byref(task),
            ctx.size,
            at(gradient),
            ctypes.c_int64(ctx.width),
            targets[0],
            ctypes.c_int64(task.query_stride),
            *targets[1:],
            ctypes.c_int64(task.key_stride),
        )
        return to_query, to_joint, None, None, None, None, None


def _task(query, joint, width: int, layout: Layout, size: int, dropout: Dropout, weights) -> Attention:
    first, key, value = _parts(query, joint, width)
    return Attention(
        query=first,
        key=key,
        value=value,
        query_stride=joint.shape[1] if query is None else width,
        key_stride=joint.shape[1],
        lengths=layout.lengths.data_ptr(),
        rows=layout.rows,
        heads=width // size,
        first_only=query is not None,
        dropout=dropout,
        alpha=1 / math.sqrt(size),
        weights=None if weights is None else weights.data_ptr(),
        threads=torch.get_num_threads(),
    )


def _parts(query, joint, width: int) -> tuple[ctypes.c_void_p, ...]:
    """Where query, key and value begin."""
    start, step = joint.data_ptr(), width * joint.element_size()
    if query is not None:
        return ctypes.c_void_p(query.data_ptr()), ctypes.c_void_p(start), ctypes.c_void_p(start + step)
    return ctypes.c_void_p(start), ctypes.c_void_p(start + step), ctypes.c_void_p(start + 2 * step)


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, residual, values, weight, bias, epsilon: float, p: float, masks: Masks):
        rows, size = values.shape
        dropout = dropout_of(p, masks)
        out, normed = torch.empty_like(residual), torch.empty_like(residual)
        low, inverse = torch.empty_like(values), residual.new_empty(rows)
        kernels().residual_norm_forward(
            at(residual),
            at(values),
            ctypes.byref(dropout),
            at(weight),
            at(bias),
            ctypes.c_float(epsilon),
            ctypes.c_int64(rows),
            size,
            at(out),
            at(low),
            at(normed),
            at(inverse),
            torch.get_num_threads(),
        )
        ctx.save_for_backward(weight, normed, inverse)
        ctx.dropout = dropout
        ctx.set_materialize_grads(False)
        return out, low

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor | None, low_gradient: torch.Tensor | None) -> tuple:
        weight, normed, inverse = ctx.saved_tensors
        gradient = None if gradient is None else gradient.contiguous()
        low_gradient = None if low_gradient is None else low_gradient.contiguous()
        (rows, size), threads = normed.shape, torch.get_num_threads()
        to_residual = torch.empty_like(normed)
        to_values = torch.empty_like(normed, dtype=torch.bfloat16)
        partial = normed.new_empty((threads, 2, size))
        kernels().residual_norm_backward(
            at(gradient),
            at(low_gradient),
            ctypes.byref(ctx.dropout),
            at(weight),
            at(normed),
            at(inverse),
            ctypes.c_int64(rows),
            size,
            at(to_residual),
            at(to_values),
            at(partial),
            threads,
        )
        to_weight, to_bias = partial.sum(dim=0)
        return to_residual, to_values, to_weight, to_bias, None, None, None


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(values)
        kernels().gelu_forward(at(values), at(out), ctypes.c_int64(values.numel()), torch.get_num_threads())
        ctx.save_for_backward(values)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        (values,) = ctx.saved_tensors
        gradient, out = gradient.contiguous(), torch.empty_like(values)
        count = ctypes.c_int64(values.numel())
        kernels().gelu_backward(at(values), at(gradient), at(out), count, torch.get_num_threads())
        return out


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32 and without gaps, which weights nearly always are."""
    plain = tensor.dtype == torch.float32 and tensor.is_contiguous()
    return tensor if plain else tensor.float().contiguous()


def at(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
