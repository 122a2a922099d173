"""Lightning's Trainer with the house's settings, which a whole training and a learning-rate ramp share."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.strategies import DDPStrategy

from tuneledger.errors import UserError

ACCELERATORS = ("auto", "cpu", "gpu")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


def make_trainer(
    callbacks: list[pl.Callback],
    *,
    accelerator: str,
    devices: int,
    num_nodes: int,
    find_unused_parameters: bool = False,
    precision: str,
    accumulate_grad_batches: int,
    gradient_clip_val: float | None,
    **loop: Any,
) -> pl.Trainer:
    """A Trainer that writes and logs nothing by itself; `loop` goes to Lightning as it is.

    With several processes, `find_unused_parameters` is for models of which the loss does not reach all.

    Raises:
        UserError: a setting is out of range.
    """
    if accumulate_grad_batches < 1:
        raise UserError(f"trainer.accumulate_grad_batches = {accumulate_grad_batches}: give at least 1")
    if gradient_clip_val is not None and not gradient_clip_val > 0:
        raise UserError(f"trainer.gradient_clip_val = {gradient_clip_val}: give a positive norm, or null")
    check_accelerator(accelerator, devices)
    precision = resolve_precision(precision, accelerator)
    quiet()
    # With deterministic algorithms torch fills whatever is allocated, lest somebody read it before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False
    ddp = {
        "gradient_as_bucket_view": True,
        "broadcast_buffers": False,  # constants, such as the numbers of positions
        "find_unused_parameters": find_unused_parameters,
    }
    # Named, since Lightning takes another one where the package rich happens to be installed.
    bar = [TQDMProgressBar()] if sys.stdout.isatty() else []
    return pl.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=DDPStrategy(**ddp) if devices * num_nodes > 1 else "auto",
        use_distributed_sampler=False,  # batches come in shares already
        precision=precision,
        accumulate_grad_batches=accumulate_grad_batches,
        gradient_clip_val=gradient_clip_val,
        deterministic="warn",
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=bool(bar),
        callbacks=[*callbacks, *bar],
        **loop,
    )


def check_accelerator(accelerator: str, devices: int) -> None:
    """Raise UserError for an accelerator that is unknown or not here, or of which there are too few."""
    if accelerator not in ACCELERATORS:
        raise UserError(f"trainer.accelerator = {accelerator}: choose {', '.join(ACCELERATORS)}")
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer.accelerator = gpu: torch finds none here; set auto or cpu, or install a CUDA build")
    found = torch.accelerator.device_count() if accelerator != "cpu" else 0
    if found and devices > found:
        raise UserError(
            f"trainer.devices = {devices}: torch finds {found} GPU here; set at most that many, or "
            "trainer.accelerator=cpu"
        )


def resolve_precision(precision: str, accelerator: str) -> str:
    """ "auto" as bf16-mixed where the hardware multiplies in bf16 natively, else as 32-true.

    Raises:
        UserError: an unknown precision, or half precision without a GPU.
    """
    if precision not in PRECISIONS:
        raise UserError(f"trainer.precision = {precision}: choose {', '.join(PRECISIONS)}")
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    if precision == "16-mixed" and not gpu:
        raise UserError("trainer.precision = 16-mixed needs a GPU: set bf16-mixed or 32-true")
    if precision != "auto":
        return precision
    if gpu:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = torch.cpu.get_capabilities()
        native = has.get("avx512_bf16", False) or has.get("amx_bf16", False)
    return "bf16-mixed" if native else "32-true"


def quiet() -> None:
    """Silence what Lightning says on every start and at every checkpoint; its warnings stay."""
    for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*in eval mode.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
