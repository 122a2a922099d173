from __future__ import annotations

import pytest
import torch

from tuneledger.learn.packed.layout import Layout, add_empty_lines, join_heads, layout_of, split_heads

HEADS, SIZE = 3, 4


def mask(lengths: list[int], width: int) -> torch.Tensor:
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).long()


@pytest.fixture(params=[([5, 1, 9], 9), ([5, 1, 9], 14), ([8, 8], 8), ([1], 1), ([16, 20, 12], 20), ([30] * 7, 32)])
def lengths(request) -> tuple[list[int], int]:
    return request.param


@pytest.fixture
def layout(lengths) -> Layout:
    return layout_of(mask(*lengths))


def numbered(lengths: list[int], size: int) -> torch.Tensor:
    """(tokens, size) of which no two numbers are equal."""
    return torch.arange(1.0, sum(lengths) * size + 1).view(-1, size)


class TestLayout:
    def test_tokens_are_the_rows_one_after_the_other(self, layout, lengths):
        texts, width = lengths
        ids = torch.arange(len(texts) * width).view(-1, width)
        packed = layout.pack(ids)
        expected = [row * width + column for row, length in enumerate(texts) for column in range(length)]
        assert packed.tolist() == expected
        assert layout.columns.tolist() == [place % width for place in expected]
        assert packed[layout.starts].tolist() == [row * width for row in range(len(texts))]

    def test_sizes_are_rounded_up_and_not_by_more(self, layout, lengths):
        texts, _ = lengths
        assert layout.rows == len(texts)
        assert layout.width % 8 == 0 and 0 <= layout.width - max(texts) < 8
        assert layout.lines % 16 == 0 and 0 <= layout.lines - sum(texts) < 16

    @pytest.mark.parametrize(
        "odd",
        [
            [[0, 1, 1], [1, 1, 1]],  # padding on the left
            [[1, 0, 1], [1, 1, 1]],  # in the middle
            [[0, 0, 0], [1, 1, 1]],  # a text without a token
        ],
    )
    def test_other_paddings_have_none(self, odd):
        assert layout_of(torch.tensor(odd)) is None


class TestHeads:
    def test_split_puts_each_token_in_its_place_and_join_takes_it_back(self, layout, lengths):
        texts, _ = lengths
        tokens = numbered(texts, HEADS * SIZE)
        split = split_heads(add_empty_lines(tokens, layout), layout, SIZE)
        assert split.shape == (HEADS * layout.rows, layout.width, SIZE)
        by_head = split.view(HEADS, layout.rows, layout.width, SIZE)
        for row, (start, length) in enumerate(zip(layout.starts.tolist(), texts, strict=True)):
            expected = tokens[start : start + length].view(length, HEADS, SIZE).transpose(0, 1)
            assert torch.equal(by_head[:, row, :length], expected)
        joined = join_heads(split, layout)
        assert torch.equal(joined[: len(tokens)], tokens)
        assert joined.shape == (layout.lines, HEADS * SIZE) and not joined[len(tokens) :].any()

    def test_gradients_come_back_to_the_tokens_and_nothing_else(self, layout, lengths):
        texts, _ = lengths
        tokens = numbered(texts, HEADS * SIZE).requires_grad_()
        lines = add_empty_lines(tokens, layout)
        lines.retain_grad()
        split = split_heads(lines, layout, SIZE)
        split.retain_grad()
        weights = torch.randn(layout.lines, HEADS * SIZE)
        (join_heads(split * 2, layout) * weights).sum().backward()
        assert torch.equal(tokens.grad, 2 * weights[: len(tokens)])
        assert not lines.grad[len(tokens) :].any()
        assert not split.grad.view(HEADS, layout.rows, layout.width, SIZE)[:, ~layout.real].any()
