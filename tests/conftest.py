from __future__ import annotations

from pathlib import Path

import pytest
import scratch


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 training and 40 validation pairs, tokenized."""
    return scratch.tokenized(tmp_path_factory.mktemp("tokens"), train=160, validation=40)
