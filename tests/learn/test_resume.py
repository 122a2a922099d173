"""An interrupted training ends with the very bytes of an uninterrupted one."""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import pytest
import scratch

SETTINGS = {**scratch.TRAINER, "max_epochs": 3, "checkpoint_every_n_steps": 3}


def train(tokens: Path, folder: Path, step: Synchronized, accumulate: int, precision: str) -> None:
    """Train to the end in `folder`, telling each finished step; leaves record.txt beside the checkpoint."""
    import torch

    from tuneledger.learn.fit import fit

    torch.set_num_threads(1)

    def on_step(row: dict[str, float]) -> None:
        step.value = int(row["step"])

    module, batches = scratch.make_training(tokens)
    settings = {**SETTINGS, "accumulate_grad_batches": accumulate, "precision": precision}
    result = fit(module, batches, folder, 1, on_step, scratch.nothing, **settings)
    (folder / "record.txt").write_text(repr((result.steps, result.epochs, result.best_epoch)))


def outcome(folder: Path) -> tuple[bytes, str, list[bytes]]:
    validation = [(folder / "validation" / f"epoch-{epoch}.npz").read_bytes() for epoch in (1, 2, 3)]
    return (folder / "best" / "model.safetensors").read_bytes(), (folder / "record.txt").read_text(), validation


@pytest.fixture(scope="module")
def context():
    """Processes forked from one that has already imported everything: a start takes a tenth of a second."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tuneledger.learn.fit", "tuneledger.learn.encoder", "scratch"])
    return server


def run_to_end(context, *arguments) -> None:
    process = context.Process(target=train, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize(
    ("accumulate", "precision", "times"), [(1, "32-true", 20), (3, "32-true", 5), (1, "bf16-mixed", 5)]
)
def test_sigkill_at_random_steps_changes_no_byte(
    context, tokens: Path, tmp_path: Path, accumulate: int, precision: str, times: int
):
    step = context.Value("i", 0)
    run_to_end(context, tokens, tmp_path / "whole", step, accumulate, precision)
    last = step.value
    assert last == 3 * -(-20 // accumulate)

    chance = random.Random(accumulate)
    kills = 0
    while kills < times:
        process = context.Process(target=train, args=(tokens, tmp_path / "killed", step, accumulate, precision))
        step.value = 0
        process.start()
        # Anywhere in the run for the first kills, so that some fall in validation and in saving; a target beyond
        # what the last checkpoint allows is reached all the same, since a resumed run goes on from there.
        target = chance.randint(1, last - 1)
        while process.is_alive() and step.value < target:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.03)
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills += 1
    run_to_end(context, tokens, tmp_path / "killed", step, accumulate, precision)
    assert kills == times
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
