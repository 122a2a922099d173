"""AdamW in the compiled kernels: clipping and step read each gradient as it comes, bf16 or sparse, once each."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch

from tuneledger.learn.packed.compiler import kernels

RATES = ("rate", "decay", "beta1", "rest1", "beta2", "rest2", "correction1", "correction2", "epsilon")

# `Parameter` of kernels.cpp.
RECORD = np.dtype(
    [
        *((name, np.uint64) for name in ("values", "first", "second", "gradient", "slots")),
        *((name, np.int64) for name in ("count", "width", "given")),
        ("low", np.int32),
        *((name, np.float32) for name in RATES),
    ],
    align=True,
)


def usable(parameters: list[torch.Tensor]) -> bool:
    """Whether there are kernels and they can update these parameters."""
    plain = (p.device.type == "cpu" and p.dtype == torch.float32 and p.is_contiguous() for p in parameters)
    return all(plain) and kernels() is not None


class KernelAdamW(torch.optim.AdamW):
    """torch.optim.AdamW for `usable` parameters; its state is the same, so that either goes on from the other's.

    Args:
        groups, lr, betas, eps: as for torch.optim.AdamW.
        any_gradient: take gradients in the type in which they were computed, where there is but one a step.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        any_gradient: bool,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        super().__init__(groups, lr=lr, betas=betas, eps=eps, fused=True)
        self.largest_norm: float | None = None  # to which the next step's gradients are clipped
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad_dtype = None if any_gradient else parameter.dtype

    @torch.no_grad()
    def step(self, closure=None):
        """See torch.optim.Optimizer.step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        held: list[Any] = []  # what the records point to
        parts = [np.zeros(0, dtype=RECORD)]
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                parts.append(_records(parameters, [self._moments(p) for p in parameters], group, held))
        records = np.concatenate(parts)
        largest = ctypes.c_double(self.largest_norm or 0)
        kernels().adamw(ctypes.c_void_p(records.ctypes.data), len(records), largest, torch.get_num_threads())
        self.largest_norm = None
        return loss

    def _moments(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def _records(
    parameters: list[torch.Tensor], states: list[dict[str, torch.Tensor]], group: dict[str, Any], held: list[Any]
) -> np.ndarray:
    """What the kernel needs to know of a group's parameters for their next step, a column at a time."""
    steps = [state["step"] for state in states]
    torch._foreach_add_(steps, 1)
    taken = torch.stack(steps).double().numpy()
    gradients, slots = zip(*(_gradient(parameter) for parameter in parameters), strict=True)
    held += [gradients, slots]
    beta1, beta2 = group["betas"]
    records = np.zeros(len(parameters), dtype=RECORD)
    records["values"] = [parameter.data_ptr() for parameter in parameters]
    records["first"] = [state["exp_avg"].data_ptr() for state in states]
    records["second"] = [state["exp_avg_sq"].data_ptr() for state in states]
    records["gradient"] = [gradient.data_ptr() for gradient in gradients]
    records["slots"] = [0 if rows is None else rows.data_ptr() for rows in slots]
    records["count"] = [parameter.numel() for parameter in parameters]
    records["width"] = [parameter.shape[-1] if parameter.ndim else 1 for parameter in parameters]
    records["given"] = [gradient.numel() for gradient in gradients]
    records["low"] = [gradient.dtype == torch.bfloat16 for gradient in gradients]
    records["rate"], records["decay"] = group["lr"], group["weight_decay"]
    records["beta1"], records["rest1"], records["correction1"] = beta1, 1 - beta1, 1 - beta1**taken
    records["beta2"], records["rest2"], records["correction2"] = beta2, 1 - beta2, 1 - beta2**taken
    records["epsilon"] = group["eps"]
    return records


def _gradient(parameter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gradient's numbers as they lie in memory, and of a sparse one the row of each of the parameter's, or -1."""
    gradient, slots = parameter.grad, None
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        slots = torch.full((len(parameter),), -1, dtype=torch.int32)
        slots[gradient.indices()[0]] = torch.arange(len(gradient.values()), dtype=torch.int32)
        gradient = gradient.values()
    if gradient.dtype not in (torch.float32, torch.bfloat16):
        gradient = gradient.float()
    return gradient.contiguous(), slots
