from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import scratch
import torch


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 training and 40 validation pairs, tokenized."""
    return scratch.tokenized(tmp_path_factory.mktemp("tokens"), train=160, validation=40)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training pairs, 6 batches of 8, and 20 validation pairs."""
    return scratch.tokenized(tmp_path_factory.mktemp("few"), train=48, validation=20)
