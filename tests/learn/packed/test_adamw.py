from __future__ import annotations

import copy
import ctypes
import math

import pytest
import torch

from tuneledger.learn.optimizer import clip_gradients
from tuneledger.learn.packed import adamw, native
from tuneledger.learn.packed.adamw import RECORD, KernelAdamW, usable
from tuneledger.learn.packed.compiler import kernels

SHAPES = [(300, 128), (128,), (1, 7), ()]
SETTINGS = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 0.01}
BETAS = [(0.9, 0.999), (0.0, 0.99999), (0.99, 0.9999999)]

pytestmark = pytest.mark.usefixtures("compiled")


def parameters() -> list[torch.nn.Parameter]:
    torch.manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def groups(parameters: list) -> list[dict]:
    return [{"params": parameters[:1], "weight_decay": 0.3}, {"params": parameters[1:], "weight_decay": 0.0, "lr": 0.1}]


def gradients(step: int) -> list[torch.Tensor]:
    torch.manual_seed(100 + step)
    return [torch.randn(shape) for shape in SHAPES]


def run(optimizer, parameters, steps=range(5), norm: float | None = None, change=lambda gradient: gradient) -> None:
    for step in steps:
        for parameter, gradient in zip(parameters, gradients(step), strict=True):
            parameter.grad = change(gradient)
        if isinstance(optimizer, KernelAdamW):
            optimizer.largest_norm = norm
        elif norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, norm)
        optimizer.step()


def pair(**changes) -> tuple:
    ours, theirs, settings = parameters(), parameters(), {**SETTINGS, **changes}
    optimizer = KernelAdamW(groups(ours), any_gradient=True, **settings)
    return ours, optimizer, theirs, torch.optim.AdamW(groups(theirs), **settings)


def assert_equal(ours, theirs, optimizer, reference) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
        for name, value in reference.state[other].items():
            torch.testing.assert_close(optimizer.state[one][name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("norm", [None, 0.5, 50.0, 1e6])
def test_steps_and_state_are_those_of_torchs(norm):
    ours, optimizer, theirs, reference = pair()
    run(optimizer, ours, norm=norm)
    run(reference, theirs, norm=norm)
    assert_equal(ours, theirs, optimizer, reference)


@pytest.mark.parametrize("betas", BETAS)
def test_also_with_betas_close_to_1(betas):
    ours, optimizer, theirs, reference = pair(betas=betas, eps=1e-8)
    run(optimizer, ours)
    run(reference, theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_gradients_in_bf16_are_taken_as_they_are():
    ours, optimizer, theirs, reference = pair()
    run(optimizer, ours, norm=0.5, change=lambda gradient: gradient.bfloat16())
    run(reference, theirs, norm=0.5, change=lambda gradient: gradient.bfloat16().float())
    assert_equal(ours, theirs, optimizer, reference)


def test_sparse_gradients_are_zeros_elsewhere():
    rows = torch.tensor([7, 299, 7, 0])  # one of them twice

    def sparse(gradient: torch.Tensor) -> torch.Tensor:
        if gradient.shape != SHAPES[0]:
            return gradient
        return torch.sparse_coo_tensor(rows[None], gradient[:4], gradient.shape, check_invariants=True)

    def dense(gradient: torch.Tensor) -> torch.Tensor:
        gradient = sparse(gradient)
        return gradient.to_dense() if gradient.is_sparse else gradient

    ours, optimizer, theirs, reference = pair()
    run(optimizer, ours, norm=0.5, change=sparse)
    run(reference, theirs, norm=0.5, change=dense)
    assert_equal(ours, theirs, optimizer, reference)


def test_without_a_gradient_a_parameter_stays():
    ours, optimizer, _, _ = pair()
    before = copy.deepcopy(ours)
    ours[0].grad = torch.ones_like(ours[0])
    optimizer.step()
    assert not torch.equal(ours[0], before[0])
    assert all(torch.equal(one, other) for one, other in zip(ours[1:], before[1:], strict=True))
    assert list(optimizer.state) == [ours[0]]


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_either_goes_on_from_the_others_state(first):
    ours, optimizer, theirs, reference = pair()
    begun = (optimizer, ours) if first == "ours" else (reference, theirs)
    run(*begun, range(3))
    end = copy.deepcopy(begun[1])
    whole = KernelAdamW(groups(end), any_gradient=False, **SETTINGS)
    whole.load_state_dict(copy.deepcopy(begun[0].state_dict()))
    plain = copy.deepcopy(begun[1])
    other = torch.optim.AdamW(groups(plain), fused=True, **SETTINGS)
    other.load_state_dict(copy.deepcopy(begun[0].state_dict()))
    for step in range(3, 6):
        run(whole, end, [step], norm=0.5)
        for parameter, gradient in zip(plain, gradients(step), strict=True):
            parameter.grad = gradient
        clip_gradients(other, 0.5)
        other.step()
    assert_equal(end, plain, whole, other)


def test_only_where_asked_gradients_keep_their_type():
    weight = torch.nn.Parameter(torch.ones(3))
    KernelAdamW([{"params": [weight]}], any_gradient=False)
    assert weight.grad_dtype == torch.float32
    KernelAdamW([{"params": [weight]}], any_gradient=True)
    assert weight.grad_dtype is None
    KernelAdamW([{"params": [weight]}], any_gradient=False)
    assert weight.grad_dtype == torch.float32


def test_the_closure_is_called_with_gradients_on():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = KernelAdamW([{"params": [weight]}], any_gradient=False)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3
    assert (weight < 1).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_gradient_that_is_no_number_is_not_hidden_by_clipping(bad):
    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        if gradient.shape == SHAPES[0]:
            gradient[3, 4] = bad
        return gradient

    ours, optimizer, theirs, reference = pair()
    run(optimizer, ours, range(1), norm=1.0, change=spoil)
    run(reference, theirs, range(1), norm=1.0, change=spoil)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.isnan(), other.isnan())
    assert ours[0][3, 4].isnan()


def test_a_norm_holds_for_one_step():
    ours, optimizer, _, _ = pair()
    run(optimizer, ours, range(1), norm=1e-6)
    assert optimizer.largest_norm is None


def test_what_it_cannot_update_is_not_usable():
    assert usable(parameters())
    assert not usable([*parameters(), torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))])
    assert not usable([*parameters(), torch.nn.Parameter(torch.ones(3, 4).t())])
    assert not usable([*parameters(), torch.nn.Parameter(torch.ones(3, device="meta"))])


def test_records_on_both_sides_are_of_one_size():
    sizes = (ctypes.c_int64 * 3)()
    kernels().struct_sizes(sizes)
    assert list(sizes) == [ctypes.sizeof(native.Dropout), ctypes.sizeof(native.Attention), RECORD.itemsize]


def test_the_number_of_threads_makes_no_difference():
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            ours, optimizer, _, _ = pair()
            run(optimizer, ours, norm=0.5)
            results.append(ours)
    finally:
        torch.set_num_threads(before)
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))


def test_weights_on_other_devices_ask_for_no_compiler(monkeypatch):
    monkeypatch.setattr(adamw, "kernels", None)  # calling it would fail
    assert not adamw.usable([torch.zeros(2, device="meta")])
