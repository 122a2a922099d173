"""A store that cannot be written or is away: training ends well all the same, says so, and has every file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import scratch

FILES = {"epochs.csv", "steps.csv", "validation.npz", "metrics.json", "cost.json", "run.json"}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    project = scratch.copy_project(tmp_path_factory.mktemp("tracking") / "project", rows=40)
    for stage in ("prepare", "tokenize"):
        scratch.stage(project, stage)
    shutil.rmtree(project / "mlruns")
    (project / "mlruns").write_text("in the way")
    return project


@pytest.mark.parametrize("uri", ["null", "http://127.0.0.1:9"])
def test_training_goes_on(project: Path, uri: str):
    out = f"hydra.run.dir=outputs/{'away' if uri != 'null' else 'unwritable'}"
    settings = ["experiment=smoke", "tokenizer.max_length=128", f"tracking.uri={uri}", out]
    done = scratch.stage(project, "train", *settings, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert "tracking failed (" in done.stdout
    folder = project / out.partition("=")[2]
    assert {path.name for path in (folder / "results/train").iterdir()} == FILES
    assert (folder / "models/best/model.safetensors").exists()
