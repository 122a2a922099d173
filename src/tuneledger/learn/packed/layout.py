"""Where the tokens of a padded batch lie once the padding is gone, and the way into attention and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

# oneDNN compiles a product for each new shape, which takes as long as running it a few times: sizes are rounded up
# so that a training meets few of them.
LINES = 16
WIDTH = 8


@dataclass(frozen=True)
class Layout:
    """A batch of `rows` texts, padded on the right, as lines: first one for each token, then a few empty ones.

    Attributes:
        rows, width: texts, and places for the tokens of each; a multiple of WIDTH.
        lines: tokens of all texts, rounded up to a multiple of LINES.
        lengths: tokens of each text, (rows,).
        real: which places hold a token, (rows, width).
        tokens: for each token its place in the flattened padded batch, (tokens,).
        columns: for each token its place in its text, (tokens,).
        starts: for each text the line of its first token, (rows,).
        padded: for each place of the flattened padded batch the line to put there, any where there is no token.
    """

    rows: int
    width: int
    lines: int
    lengths: torch.Tensor
    real: torch.Tensor
    tokens: torch.Tensor
    columns: torch.Tensor
    starts: torch.Tensor
    padded: torch.Tensor

    def pack(self, batch: torch.Tensor) -> torch.Tensor:
        """(rows, places) as (tokens,)."""
        columns = min(self.width, batch.shape[1])
        return batch[:, :columns][self.real[:, :columns]]


def layout_of(attention_mask: torch.Tensor) -> Layout | None:
    """The layout of a batch, or None if it has padding other than on the right, or a text without a token.

    Args:
        attention_mask: (rows, places), 1 for a token.
    """
    lengths = attention_mask.sum(dim=1, dtype=torch.int64)
    shortest, longest = lengths.aminmax()
    columns = torch.arange(_rounded(attention_mask.shape[1], WIDTH))
    real = columns < lengths[:, None]
    if int(shortest) == 0 or not torch.equal(real[:, : attention_mask.shape[1]], attention_mask.bool()):
        return None
    width = _rounded(int(longest), WIDTH)
    real, columns = real[:, :width], columns[:width].expand(len(real), -1)
    tokens = real.flatten().nonzero().squeeze(1)
    starts = lengths.cumsum(0) - lengths
    return Layout(
        rows=len(real),
        width=width,
        lines=_rounded(len(tokens), LINES),
        lengths=lengths,
        real=real,
        tokens=tokens,
        columns=columns[real],
        starts=starts,
        padded=torch.where(real, starts[:, None] + columns, 0).flatten(),
    )


def add_empty_lines(tokens: torch.Tensor, layout: Layout) -> torch.Tensor:
    """(tokens, size) as (lines, size)."""
    return pad(tokens, (0, 0, 0, layout.lines - len(tokens)))


def split_heads(lines: torch.Tensor, layout: Layout, size: int) -> torch.Tensor:
    """(lines, heads * size) as (heads * rows, width, size), with some token or other where there is none.

    Nothing may be read from those places: no gradient comes back from them.
    """
    return _SplitHeads.apply(lines, layout, size)


def join_heads(padded: torch.Tensor, layout: Layout) -> torch.Tensor:
    """(heads * rows, width, size) as (lines, heads * size)."""
    return _JoinHeads.apply(padded, layout)


class _SplitHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx, lines: torch.Tensor, layout: Layout, size: int) -> torch.Tensor:
        ctx.layout = layout
        heads = lines.shape[1] // size
        places = layout.padded * heads + torch.arange(heads)[:, None]
        return lines.view(-1, size).index_select(0, places.flatten()).view(-1, layout.width, size)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _join(gradient, ctx.layout), None, None


class _JoinHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx, padded: torch.Tensor, layout: Layout) -> torch.Tensor:
        ctx.layout, ctx.shape = layout, padded.shape
        return _join(padded, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        layout, size = ctx.layout, ctx.shape[2]
        tokens = gradient[: len(layout.tokens)].reshape(-1, size)
        padded = gradient.new_zeros(ctx.shape)
        padded.view(-1, size).index_copy_(0, _places(layout, gradient.shape[1] // size), tokens)
        return padded, None


def _join(padded: torch.Tensor, layout: Layout) -> torch.Tensor:
    heads, size = len(padded) // layout.rows, padded.shape[2]
    tokens = padded.reshape(-1, size).index_select(0, _places(layout, heads))
    return add_empty_lines(tokens.view(-1, heads * size), layout)


def _places(layout: Layout, heads: int) -> torch.Tensor:
    """For each token and head its row in (heads * rows * width, size)."""
    return (layout.tokens[:, None] + torch.arange(heads) * (layout.rows * layout.width)).flatten()


def _rounded(count: int, step: int) -> int:
    return -(-count // step) * step
