from __future__ import annotations

import math

import torch
from transformers.activations import ACT2FN

from tuneledger.learn.packed import native
from tuneledger.learn.packed.activation import activate


def every_bf16() -> torch.Tensor:
    """All finite numbers, and infinity and NaN."""
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)


def test_gelu_is_the_definition_for_every_number(compiled):
    values = every_bf16().requires_grad_()
    found = activate(ACT2FN["gelu"], values)
    found.backward(torch.ones_like(found))
    exact = values.detach().double().requires_grad_()
    wanted = 0.5 * exact * torch.special.erfc(-exact / math.sqrt(2))
    finite = values.isfinite() & (values.abs() < 1e30)  # torch's own derivative of erfc is no number beyond
    wanted[finite].sum().backward()
    torch.testing.assert_close(found[finite].double(), wanted[finite], atol=1e-6, rtol=0.004)
    torch.testing.assert_close(values.grad[finite].double(), exact.grad[finite], atol=1e-6, rtol=0.004)
    assert torch.equal(found.isnan(), values.isnan() | (values == -math.inf))
    assert found[values == math.inf].item() == math.inf


def test_it_is_compiled_for_gelu_in_bf16_and_nothing_else(compiled, monkeypatch):
    called = []
    monkeypatch.setattr(native, "gelu", lambda values: called.append(values) or values)
    values = torch.randn(5)
    for name in ("gelu_new", "relu", "gelu_pytorch_tanh", "silu"):
        assert torch.equal(activate(ACT2FN[name], values.bfloat16()), ACT2FN[name](values.bfloat16())), name
    assert torch.equal(activate(ACT2FN["gelu"], values), torch.nn.functional.gelu(values))
    assert not called
    activate(ACT2FN["gelu"], values.bfloat16())
    assert len(called) == 1
