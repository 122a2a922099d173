from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scratch
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training pairs, 6 batches of 8, and 20 validation pairs."""
    return scratch.tokenized(tmp_path_factory.mktemp("few"), train=48, validation=20)


@pytest.fixture
def train(few: Path, tmp_path: Path) -> Callable[..., Any]:
    """fit() of the tiny model on `few`, in tmp_path/run unless told otherwise; keywords replace trainer settings."""

    def run(
        folder: Path = tmp_path / "run",
        *,
        prepare: Callable[[Any], None] = lambda module: None,
        on_step: Callable[[dict[str, float]], None] = scratch.nothing,
        on_epoch: Callable[[dict[str, float]], None] = scratch.nothing,
        changes: dict[str, dict[str, Any]] | None = None,
        until_epoch: int | None = None,
        **trainer: Any,
    ) -> Any:
        from tuneledger.learn.fit import fit

        module, batches = scratch.make_training(few, **(changes or {}))
        prepare(module)
        settings = {**scratch.TRAINER, **trainer}
        return fit(module, batches, folder, 1, on_step, on_epoch, until_epoch, **settings)

    return run
