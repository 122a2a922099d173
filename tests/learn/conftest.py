from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import scratch

from tuneledger.learn.packed import compiler


@pytest.fixture(params=["compiled", "torch"])
def implementation(request, monkeypatch) -> Iterator[str]:
    """Both ways to compute: with compiled kernels, and as where there is no compiler."""
    if request.param == "torch":
        monkeypatch.setenv("CXX", "/nowhere/c++")
        compiler.kernels.cache_clear()
        assert compiler.kernels() is None
    elif compiler.kernels() is None:
        pytest.skip("no compiler")
    yield request.param
    compiler.kernels.cache_clear()


@pytest.fixture
def compiled() -> None:
    if compiler.kernels() is None:
        pytest.skip("no compiler")


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
