from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import layer_norm

from tuneledger.learn.packed.dropout import Masks
from tuneledger.learn.packed.residual import residual_norm

ROWS, SIZE = 33, 70


@pytest.fixture
def norm() -> torch.nn.LayerNorm:
    torch.manual_seed(1)
    norm = torch.nn.LayerNorm(SIZE, eps=1e-5)
    with torch.no_grad():
        norm.weight.add_(0.3 * torch.randn(SIZE))
        norm.bias.add_(0.3 * torch.randn(SIZE))
    return norm


def compute(residual, values, norm, p: float):
    torch.manual_seed(5)
    return residual_norm(residual, values, norm, p, Masks())


def mask(p: float) -> torch.Tensor:
    """What `compute` keeps: of ones the others come out below the mean."""
    plain = torch.nn.LayerNorm(SIZE)
    return compute(torch.zeros(ROWS, SIZE), torch.ones(ROWS, SIZE).bfloat16(), plain, p)[0].detach() > 0


@pytest.mark.parametrize("p", [0.0, 0.25])
@pytest.mark.parametrize("used", [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_values_and_gradients_are_those_of_the_definition(norm, p, used, implementation):
    torch.manual_seed(2)
    residual = (3 * torch.randn(ROWS, SIZE) + 1).requires_grad_()
    values = torch.randn(ROWS, SIZE).bfloat16().requires_grad_()
    keep = mask(p) if p else torch.ones(ROWS, SIZE)
    leaves = [residual, values, norm.weight, norm.bias]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    wanted = layer_norm(exact[0] + exact[1] * keep / (1 - p), (SIZE,), exact[2], exact[3], norm.eps)
    out, low = compute(residual, values, norm, p)
    torch.testing.assert_close(out.double(), wanted, atol=1e-5, rtol=1e-5)
    assert low.dtype == torch.bfloat16
    # To the nearest: torch and the kernel may differ by 1e-7 before they round.
    assert (low != out.bfloat16()).double().mean() < 0.001 or torch.equal(low, out.bfloat16())
    weights, low_weights = torch.randn(ROWS, SIZE), torch.randn(ROWS, SIZE)
    total = [factor * part for factor, part in zip(used, (out * weights, low * low_weights), strict=True) if factor]
    sum(part.sum() for part in total).backward()
    (wanted * (used[0] * weights + used[1] * low_weights.bfloat16())).sum().backward()
    for found, leaf in zip(leaves, exact, strict=True):
        tolerance = {"atol": 2e-4, "rtol": 2e-3} if found.dtype == torch.float32 else {"atol": 2e-2, "rtol": 1e-2}
        torch.testing.assert_close(found.grad.double(), leaf.grad, **tolerance)
    assert values.grad.dtype == torch.bfloat16
    assert not values.grad[~keep.bool()].any()


@pytest.mark.parametrize("rows", [2, ROWS])
def test_the_number_of_threads_makes_no_difference_but_in_the_order_of_sums(norm, rows, compiled):
    torch.manual_seed(2)
    residual, values, weights = torch.randn(3, rows, SIZE)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaf = values.bfloat16().requires_grad_()
            norm.zero_grad()
            (compute(residual, leaf, norm, 0.25)[0] * weights).sum().backward()
            results.append([leaf.grad, norm.weight.grad.clone(), norm.bias.grad.clone()])
    finally:
        torch.set_num_threads(before)
    for others in results[1:]:
        assert torch.equal(results[0][0], others[0])
        for one, other in zip(results[0][1:], others[1:], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_share_of_p_is_dropped_and_rows_differ(implementation):
    keep = mask(0.25).double()
    spread = math.sqrt(0.25 * 0.75 / keep.numel())
    assert keep.mean().item() == pytest.approx(0.75, abs=4.5 * spread)
    assert len({tuple(row) for row in keep.tolist()}) == ROWS


def test_what_is_no_number_stays_none(norm, implementation):
    residual, values = torch.randn(ROWS, SIZE), torch.randn(ROWS, SIZE).bfloat16()
    residual[3, 4] = math.nan
    values[7, 8] = math.inf
    for result in compute(residual, values, norm, 0.0):
        assert result.isnan().any(dim=1).nonzero().flatten().tolist() == [3, 7]
