"""Scaled dot-product attention within each text, with dropout: https://arxiv.org/abs/1706.03762, section 3.2.1."""

from __future__ import annotations

import math

import torch
from torch.autograd.function import once_differentiable

from tuneledger.learn.packed import native
from tuneledger.learn.packed.dropout import Masks, masked, survival
from tuneledger.learn.packed.layout import Layout, join_heads, split_heads


def attend(joint: torch.Tensor, layout: Layout, size: int, p: float, masks: Masks) -> torch.Tensor:
    """What each token gathers from its text, (lines, heads * size).

    Args:
        joint: query, key and value side by side, (lines, 3 * heads * size).
        size: of a head.
        p: probability with which a query loses sight of a token.
    """
    if native.attends(joint.dtype, size):
        return native.attend(None, joint, layout, size, p, masks)
    query, key, value = split_heads(joint, layout, size).chunk(3)
    return join_heads(_attention(query, key, value, layout, p, masks), layout)


def attend_from_first(
    query: torch.Tensor, joint: torch.Tensor, layout: Layout, size: int, p: float, masks: Masks
) -> torch.Tensor:
    """What each text's first token gathers, (rows, heads * size).

    Args:
        query: of the first tokens, (rows, heads * size).
        joint: key and value of all tokens side by side, (lines, 2 * heads * size).
    """
    if native.attends(joint.dtype, size):
        return native.attend(query, joint, layout, size, p, masks)
    key, value = split_heads(joint, layout, size).chunk(2)
    by_head = query.view(layout.rows, -1, size).transpose(0, 1).reshape(-1, 1, size)
    mixed = _attention(by_head, key, value, layout, p, masks)
    return mixed.view(-1, layout.rows, size).transpose(0, 1).reshape(layout.rows, -1)


def _attention(query, key, value, layout: Layout, p: float, masks: Masks) -> torch.Tensor:
    """query: (heads * rows, queries, size); key, value: (heads * rows, width, size)."""
    hidden = torch.where(layout.real, 0.0, -math.inf).to(query.dtype)
    bias = hidden.repeat(len(query) // layout.rows, 1)[:, None]
    keep = masks.draw((*query.shape[:2], layout.width), p) if p else None
    return _Attention.apply(query, key, value, bias, keep, 1 / survival(p))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, bias, keep, scale) -> torch.Tensor:
        scores = torch.baddbmm(bias, query, key.mT, alpha=1 / math.sqrt(query.shape[2]))
        weights = scores.softmax(dim=-1, dtype=torch.float32)
        used = (weights * scale).to(value.dtype)
        if keep is not None:
            used = masked(used, keep)
        ctx.save_for_backward(query, key, value, weights, used, keep)
        ctx.scale = scale
        return used @ value

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple:
        query, key, value, weights, used, keep = ctx.saved_tensors
        to_used = gradient @ value.mT
        if keep is not None:
            to_used = masked(to_used, keep)
        to_weights = to_used.float().mul_(ctx.scale / math.sqrt(query.shape[2]))
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, torch.float32).to(query.dtype)
        return to_scores @ key, to_scores.mT @ query, used.mT @ gradient, None, None, None
