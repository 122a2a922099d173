"""What a training took, in seconds, tokens and operations; no money."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import psutil


def training_cost(
    totals: dict[str, float],
    parameters: dict[str, int],
    *,
    tokens_per_epoch: int,
    epochs: int,
    layers: int,
    trained_layers: int,
    hidden_size: int,
) -> dict[str, float]:
    """Rates and totals of one training.

    Args:
        totals: seconds, examples and padded tokens, as `learn.history.Meter` gathers them.
        parameters: as `learn.encoder.count_parameters` counts them.
        tokens_per_epoch: real tokens, special ones included.
        epochs: as trained, which early stopping may have cut short.
        layers, trained_layers, hidden_size: the encoder's shape, and how many of its last layers were trained.

    Returns:
        seconds: train, validation and fit, their sum; examples and tokens (real, padded), each in all and a second
        of training; tokens_total = tokens x epochs; flops; parameter counts.
    """
    seconds = totals["train_seconds"]
    tokens_total = tokens_per_epoch * epochs
    flops = training_flops(
        parameters["matrix_parameters"],
        parameters["trainable_matrix_parameters"],
        tokens=totals["padded_tokens"],
        squared_lengths=totals["squared_lengths"],
        layers=layers,
        trained_layers=trained_layers,
        hidden_size=hidden_size,
    )
    return {
        "fit_seconds": seconds + totals["validation_seconds"],
        "train_seconds": seconds,
        "validation_seconds": totals["validation_seconds"],
        "examples": totals["examples"],
        "examples_per_second": totals["examples"] / seconds,
        "tokens": tokens_per_epoch,
        "tokens_total": tokens_total,
        "tokens_per_second": tokens_total / seconds,
        "padded_tokens_total": totals["padded_tokens"],
        "padded_tokens_per_second": totals["padded_tokens"] / seconds,
        "flops": flops,
        "flops_per_second": flops / seconds,
        "parameters": parameters["parameters"],
        "trainable_parameters": parameters["trainable_parameters"],
        "resumed": totals["resumed"],
    }


def training_flops(
    matrix_parameters: int,
    trainable_matrix_parameters: int,
    *,
    tokens: float,
    squared_lengths: float,
    layers: int,
    trained_layers: int,
    hidden_size: int,
) -> float:
    """Floating-point operations: 2 a weight and token forward, 4 a trained one backward, plus attention.

    Args:
        matrix_parameters, trainable_matrix_parameters: weights outside embedding tables; what is frozen lies below what
            is trained, so that no gradient passes through it.
        tokens: as computed, padding included.
        squared_lengths: sum over rows of the square of their padded length.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1, for 6 N; Chowdhery et al. 2022 (arXiv 2204.02311),
    appendix B, for attention's 12 layers x hidden size x length a token.
    """
    weights = 2.0 * matrix_parameters + 4.0 * trainable_matrix_parameters
    return weights * tokens + (4.0 * layers + 8.0 * trained_layers) * hidden_size * squared_lengths


def hardware() -> dict[str, Any]:
    """The machine: CPU and GPU names as they report themselves, cores, memory in GiB."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if gpus else None,
        "gpus": gpus,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def cpu_name() -> str:
    """The processor's model name, as /proc/cpuinfo has it on Linux, else as Python's platform module does."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as info:
            names = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
