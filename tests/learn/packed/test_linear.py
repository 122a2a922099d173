from __future__ import annotations

import pytest
import torch
from torch import nn

from tuneledger.learn.packed import native
from tuneledger.learn.packed.linear import linear


def layers(inputs: int, *outputs: int) -> list[nn.Linear]:
    torch.manual_seed(1)
    return [nn.Linear(inputs, size) for size in outputs]


@pytest.mark.parametrize("outputs", [(48,), (16, 70, 3)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_outputs_and_gradients_are_those_of_each_layer(implementation, outputs, dtype, tolerance):
    values = torch.randn(37, 24, requires_grad=True)
    mine, theirs = layers(24, *outputs), layers(24, *outputs)
    found = linear(values.to(dtype), *mine).float()
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    gradient, values.grad = values.grad, None
    wanted = torch.cat([layer(values) for layer in theirs], dim=1)
    (wanted * weights).sum().backward()
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(gradient, values.grad, atol=10 * tolerance, rtol=tolerance)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.weight.grad, other.weight.grad, atol=10 * tolerance, rtol=tolerance)
        torch.testing.assert_close(one.bias.grad, other.bias.grad, atol=10 * tolerance, rtol=tolerance)


@pytest.mark.parametrize("change", [torch.Tensor.double, lambda weight: weight.t().contiguous().t()])
def test_weights_of_another_type_or_with_gaps(implementation, change):
    values, layer = torch.randn(5, 8), layers(8, 4)[0]
    wanted = layer(values)
    for parameter in layer.parameters():
        parameter.data = change(parameter.data) if parameter.ndim == 2 else parameter.data
    found = linear(values.bfloat16(), layer)
    torch.testing.assert_close(found.float(), wanted, atol=0.02, rtol=0.02)


def test_only_what_is_trained_gets_a_gradient(implementation):
    first, second = layers(8, 4, 6)
    first.weight.requires_grad_(False)
    values = torch.randn(5, 8).bfloat16()
    linear(values, first, second).sum().backward()
    assert first.weight.grad is None
    assert second.weight.grad.shape == (6, 8) and first.bias.grad.shape == (4,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_layers_get_no_gradient_but_pass_it_on(implementation, dtype):
    (layer,) = layers(8, 4)
    layer.requires_grad_(False)
    values = torch.randn(5, 8, dtype=dtype, requires_grad=True)
    linear(values, layer).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is None
    assert values.grad.abs().sum() > 0


def test_joined_numbers_are_rounded_as_torch_rounds(compiled):
    parts = [torch.randn(sizes) * 10.0 ** torch.randint(-30, 30, sizes) for sizes in ((7, 5), (1,), (40_001,))]
    parts[1][0] = float("nan")
    found = native.joined(parts)
    wanted = torch.cat([part.flatten() for part in parts]).bfloat16()
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("columns", [1, 63, 64, 200])
def test_column_sums_are_rounded_once(compiled, columns):
    values = torch.randn(301, columns).bfloat16()
    wanted = values.double().sum(dim=0)
    error = (native.column_sums(values).double() - wanted).abs()
    least = (wanted.bfloat16().double() - wanted).abs()
    assert bool((error <= least + 1e-4).all())
    values[3, 0] = float("nan")
    sums = native.column_sums(values)
    assert sums[0].isnan() and sums[1:].isfinite().all()


def test_sums_of_a_matrix_that_lies_sideways(compiled):
    values = torch.randn(70, 9).bfloat16().t()
    assert torch.equal(native.column_sums(values), native.column_sums(values.contiguous()))
