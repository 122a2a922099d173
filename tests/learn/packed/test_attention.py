from __future__ import annotations

import math

import pytest
import torch

from tuneledger.learn.packed.attention import attend, attend_from_first
from tuneledger.learn.packed.dropout import Masks
from tuneledger.learn.packed.layout import layout_of

LENGTHS = [5, 40, 2, 16]
HEADS = 2
LAYOUT = layout_of((torch.arange(40) < torch.tensor(LENGTHS)[:, None]).long())


def joint(parts: int, size: int, seed: int = 3) -> torch.Tensor:
    torch.manual_seed(seed)
    return 2 * torch.randn(LAYOUT.lines, parts * HEADS * size)


def reference(query, key, value, size: int, keep: dict | None = None, scale: float = 1.0) -> torch.Tensor:
    """Text by text and head by head, as the definition has it; `keep` has masks by text and head."""
    out = []
    for row, (start, length) in enumerate(zip(LAYOUT.starts.tolist(), LENGTHS, strict=True)):
        asked = query[start : start + length] if len(query) == len(key) else query[row : row + 1]
        heads = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = asked[:, part] @ key[start : start + length, part].T / math.sqrt(size)
            weights = scores.softmax(dim=-1)
            if keep is not None:
                weights = weights * keep[row, head] * scale
            heads.append(weights @ value[start : start + length, part])
        out.append(torch.cat(heads, dim=1))
    return torch.cat(out)


def compute(tensor: torch.Tensor, size: int, p: float = 0.0, first: torch.Tensor | None = None) -> torch.Tensor:
    torch.manual_seed(5)
    if first is not None:
        return attend_from_first(first, tensor, LAYOUT, size, p, Masks())
    return attend(tensor, LAYOUT, size, p, Masks())[: sum(LENGTHS)]


@pytest.mark.parametrize("size", [4, 16, 32, 64])
def test_in_float32_it_is_the_definition(size):
    tensor = joint(3, size).requires_grad_()
    exact = tensor.detach().double().requires_grad_()
    weights = torch.randn(sum(LENGTHS), HEADS * size)
    found, wanted = compute(tensor, size), reference(*exact.chunk(3, dim=1), size)
    torch.testing.assert_close(found.double(), wanted, atol=2e-6, rtol=1e-5)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(tensor.grad.double(), exact.grad, atol=5e-6, rtol=1e-4)


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 0.02) -> bool:
    """bf16 has 8 bits: what was rounded once is off by 0.4 % at most, and on the way back more is rounded."""
    return bool((found.double() - wanted).norm() < tolerance * wanted.norm())


@pytest.mark.parametrize("size", [4, 16, 32, 64])
def test_in_bf16_it_is_the_definition_but_for_rounding(size, implementation):
    tensor = joint(3, size).bfloat16().requires_grad_()
    exact = tensor.detach().double().requires_grad_()
    weights = torch.randn(sum(LENGTHS), HEADS * size).bfloat16()
    found, wanted = compute(tensor, size), reference(*exact.chunk(3, dim=1), size)
    assert found.dtype == torch.bfloat16 and close(found, wanted)
    found.backward(weights)
    wanted.backward(weights.double())
    for ours, theirs in zip(tensor.grad.chunk(3, dim=1), exact.grad.chunk(3, dim=1), strict=True):
        assert close(ours, theirs)
    assert not tensor.grad[sum(LENGTHS) :].any()


@pytest.mark.parametrize("size", [4, 16, 32, 64])
def test_the_first_tokens_alone(size, implementation):
    tensor = joint(2, size).bfloat16().requires_grad_()
    first = joint(1, size, seed=4)[: len(LENGTHS)].bfloat16().requires_grad_()
    exact, exact_first = (leaf.detach().double().requires_grad_() for leaf in (tensor, first))
    found, wanted = compute(tensor, size, first=first), reference(exact_first, *exact.chunk(2, dim=1), size)
    assert found.shape == (len(LENGTHS), HEADS * size) and close(found, wanted)
    weights = torch.randn(found.shape).bfloat16()
    found.backward(weights)
    wanted.backward(weights.double())
    assert close(tensor.grad, exact.grad) and close(first.grad, exact_first.grad)


def masks_of(size: int, p: float) -> dict[tuple[int, int], torch.Tensor]:
    """The masks that `compute` draws, seen by giving each token of a text a value of its own."""
    tensor = joint(3, size)
    tensor[:, : 2 * HEADS * size] = 0  # equal weights
    keep: dict[tuple[int, int], list] = {}
    for first in range(0, max(LENGTHS), size):
        value = (LAYOUT.columns[:, None] == torch.arange(first, first + size)).float()
        tensor[: sum(LENGTHS), 2 * HEADS * size :] = value.repeat(1, HEADS)
        seen = compute(tensor.bfloat16(), size, p).float() > 0
        for row, (start, length) in enumerate(zip(LAYOUT.starts.tolist(), LENGTHS, strict=True)):
            for head in range(HEADS):
                part = seen[start : start + length, head * size : head * size + max(0, min(size, length - first))]
                keep.setdefault((row, head), []).append(part)
    return {place: torch.cat(parts, dim=1).double() for place, parts in keep.items()}


def test_under_dropout_it_is_the_definition_with_the_masks_drawn(implementation):
    size, p = 32, 0.25
    keep = masks_of(size, p)
    assert all(keep[row, head].shape == (n, n) for row, n in enumerate(LENGTHS) for head in range(HEADS))
    tensor = joint(3, size).bfloat16().requires_grad_()
    exact = tensor.detach().double().requires_grad_()
    found, wanted = compute(tensor, size, p), reference(*exact.chunk(3, dim=1), size, keep, 1 / (1 - p))
    assert close(found, wanted)
    weights = torch.randn(found.shape).bfloat16()
    found.backward(weights)
    wanted.backward(weights.double())
    for ours, theirs in zip(tensor.grad.chunk(3, dim=1), exact.grad.chunk(3, dim=1), strict=True):
        assert close(ours, theirs)


def test_masks_drop_a_share_of_p_and_no_two_are_alike(implementation):
    keep = masks_of(32, 0.25)
    everything = torch.cat([mask.flatten() for mask in keep.values()])
    spread = math.sqrt(0.25 * 0.75 / len(everything))
    assert everything.mean().item() == pytest.approx(0.75, abs=4.5 * spread)
    one, other = keep[1, 0], keep[1, 1]  # 40 x 40 each
    assert abs(((one - 0.75) * (other - 0.75)).mean().item()) < 4.5 * 0.1875 / 40
    assert abs(((one[1:] - 0.75) * (one[:-1] - 0.75)).mean().item()) < 4.5 * 0.1875 / 39


def test_what_is_no_number_stays_none(implementation):
    tensor = joint(3, 16).bfloat16()
    tensor[0, 0] = math.nan
    found = compute(tensor, 16)
    assert found[0].isnan().any()
    assert not found[LENGTHS[0] :].isnan().any()  # of the other texts


def test_texts_of_512_tokens(implementation):
    layout = layout_of((torch.arange(512) < torch.tensor([[512], [3], [511]])).long())
    torch.manual_seed(3)
    tensor = torch.randn(layout.lines, 3 * 64).bfloat16().requires_grad_()
    found = attend(tensor, layout, 32, 0.0, Masks())
    found.sum().backward()
    long = tensor.detach().double()[layout.starts[2] :][:511].requires_grad_()
    query, key, value = (part.view(511, 2, 32).transpose(0, 1) for part in long.chunk(3, dim=1))
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(0, 1).reshape(511, 64)
    assert close(found[layout.starts[2] :][:511], wanted)
    wanted.sum().backward()
    assert close(tensor.grad[layout.starts[2] :][:511], long.grad)


def test_without_gradients_the_result_is_the_same(implementation):
    tensor = joint(3, 32).bfloat16()
    with torch.inference_mode():
        alone = compute(tensor, 32, 0.1)
    assert torch.equal(alone, compute(tensor.requires_grad_(), 32, 0.1))


def test_the_number_of_threads_makes_no_difference(compiled):
    tensor, before = joint(3, 32).bfloat16().requires_grad_(), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            tensor.grad = None
            compute(tensor, 32, 0.1).sum().backward()
            results.append(tensor.grad.clone())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
