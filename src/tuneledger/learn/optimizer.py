"""AdamW and its learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from tuneledger.errors import UserError

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def make_optimizer(
    model: torch.nn.Module,
    steps: int,
    fused: bool = True,
    *,
    lr: float,
    weight_decay: float,
    betas: list[float],
    eps: float,
    schedule: str,
    warmup: float,
) -> tuple[torch.optim.AdamW, LambdaLR]:
    """Optimizer and schedule for a training of `steps` optimizer steps.

    Matrices decay; biases and normalisation weights, which have one dimension, do not. `fused` updates in one kernel.

    Raises:
        UserError: a value out of its range, under its full key.
    """
    check_optim(lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, schedule=schedule, warmup=warmup)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=tuple(betas), eps=eps, fused=fused)
    warm = round(warmup * steps)
    return optimizer, get_scheduler(SCHEDULES[schedule], optimizer, num_warmup_steps=warm, num_training_steps=steps)


def check_optim(
    *, lr: float, weight_decay: float, betas: list[float], eps: float, schedule: str, warmup: float
) -> None:
    """Raise UserError for a value that cannot train: told before any weight is loaded."""
    if not (_is_number(lr) and lr > 0):
        raise UserError(f"optim.lr = {lr}: give a positive number, such as 1e-4")
    if not (_is_number(weight_decay) and weight_decay >= 0):
        raise UserError(f"optim.weight_decay = {weight_decay}: give 0 or a positive number")
    if not (len(betas) == 2 and all(_is_number(beta) and 0 <= beta < 1 for beta in betas)):
        raise UserError(f"optim.betas = {betas}: give two numbers from 0 to below 1, such as [0.9, 0.999]")
    if not (_is_number(eps) and eps >= 0):
        raise UserError(f"optim.eps = {eps}: give 0 or a positive number, such as 1e-8")
    if schedule not in SCHEDULES:
        raise UserError(f"optim.schedule = {schedule}: choose {', '.join(SCHEDULES)}")
    if not (_is_number(warmup) and 0 <= warmup < 1):
        raise UserError(f"optim.warmup = {warmup}: give a share of the steps, from 0 to below 1")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
