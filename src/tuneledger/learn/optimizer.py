"""AdamW and its learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from tuneledger.errors import UserError
from tuneledger.learn.depth import depths
from tuneledger.learn.packed.adamw import KernelAdamW, usable

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def make_optimizer(
    model: torch.nn.Module,
    steps: int,
    fused: bool = True,
    any_gradient: bool = False,
    *,
    lr: float,
    weight_decay: float,
    betas: list[float],
    eps: float,
    schedule: str,
    warmup: float,
    layer_decay: float,
) -> tuple[torch.optim.AdamW, LambdaLR]:
    """Optimizer and schedule for a training of `steps` optimizer steps.

    Matrices decay; biases and normalisation weights, which have one dimension, do not. `fused` updates in one kernel;
    `any_gradient` then lets gradients be of the type in which they were computed, where there is but one a step.

    The head learns at `lr`, each layer below it at `layer_decay` times the rate of the one above, embeddings as a
    layer below the first (Clark et al. 2020, arXiv 2003.10555, appendix B). Groups have "scale", their share of `lr`.

    Raises:
        UserError: a value out of its range, under its full key.
    """
    check_optim(
        lr=lr,
        weight_decay=weight_decay,
        betas=betas,
        eps=eps,
        schedule=schedule,
        warmup=warmup,
        layer_decay=layer_decay,
    )
    trained = _trained(model)
    groups = [
        {"params": [p for p in level if (p.ndim < 2) == plain], "weight_decay": 0.0 if plain else weight_decay}
        | {"lr": lr * scale, "scale": scale}
        for scale, level in _levels(model, layer_decay)
        for plain in (False, True)
    ]
    settings = {"lr": lr, "betas": tuple(betas), "eps": eps}
    if fused and usable(trained):
        optimizer = KernelAdamW(groups, any_gradient=any_gradient, **settings)
    else:
        optimizer = torch.optim.AdamW(groups, fused=fused, **settings)
    warm = round(warmup * steps)
    return optimizer, get_scheduler(SCHEDULES[schedule], optimizer, num_warmup_steps=warm, num_training_steps=steps)


def _levels(model: torch.nn.Module, layer_decay: float) -> list[tuple[float, list[torch.nn.Parameter]]]:
    """Trained parameters with their share of the learning rate, from the head down; in one piece where all have one."""
    if layer_decay == 1:
        return [(1.0, _trained(model))]
    levels: dict[int, list[torch.nn.Parameter]] = {}
    for depth, parameter in depths(model):
        if parameter.requires_grad:
            levels.setdefault(depth, []).append(parameter)
    return [(layer_decay**depth, levels[depth]) for depth in sorted(levels)]


def _trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def takes_any_gradient(trainer: Trainer, model: torch.nn.Module) -> bool:
    """Whether gradients may come as bf16 or sparse: in one process, one a step, to an optimizer that takes them."""
    alone = isinstance(trainer.strategy, SingleDeviceStrategy) and trainer.accumulate_grad_batches == 1
    return alone and trainer.strategy.root_device.type == "cpu" and usable(_trained(model))


def clip_gradients(optimizer: torch.optim.Optimizer, norm: float) -> None:
    """Let the next step of `optimizer` see gradients of at most this norm, all taken together.

    A fused optimizer divides by its attribute grad_scale in the same pass over memory. torch means that for its own
    gradient scaler and does not document it.
    """
    if isinstance(optimizer, KernelAdamW):
        optimizer.largest_norm = norm
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    total = get_total_norm([p.grad for p in parameters])
    if optimizer.param_groups[0]["fused"]:
        optimizer.grad_scale = ((total + 1e-6) / norm).clamp(min=1.0)  # as in clip_grads_with_norm_, turned around
    else:
        clip_grads_with_norm_(parameters, norm, total)


def check_optim(
    *,
    lr: float,
    weight_decay: float,
    betas: list[float],
    eps: float,
    schedule: str,
    warmup: float,
    layer_decay: float,
) -> None:
    """Raise UserError for a value that cannot train: told before any weight is loaded."""
    if not (_is_number(lr) and lr > 0):
        raise UserError(f"optim.lr = {lr}: give a positive number, such as 1e-4")
    if not (_is_number(weight_decay) and weight_decay >= 0):
        raise UserError(f"optim.weight_decay = {weight_decay}: give 0 or a positive number")
    if not (len(betas) == 2 and all(_is_number(beta) and 0 <= beta < 1 for beta in betas)):
        raise UserError(f"optim.betas = {betas}: give two numbers from 0 to below 1, such as [0.9, 0.999]")
    if not (_is_number(eps) and np.float32(eps) > 0):  # a weight that never had a gradient would become 0 / 0
        raise UserError(f"optim.eps = {eps}: give a positive number, such as 1e-8")
    if schedule not in SCHEDULES:
        raise UserError(f"optim.schedule = {schedule}: choose {', '.join(SCHEDULES)}")
    if not (_is_number(warmup) and 0 <= warmup < 1):
        raise UserError(f"optim.warmup = {warmup}: give a share of the steps, from 0 to below 1")
    if not (_is_number(layer_decay) and 0 < layer_decay <= 1):
        raise UserError(f"optim.layer_decay = {layer_decay}: give a factor above 0, at most 1, which is no decay")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
