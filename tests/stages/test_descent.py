from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import scratch
import torch

from tuneledger.errors import UserError
from tuneledger.stages import descent as stage

RATES = [0.1, 0.01]
PARAMS = {
    "seed": 1,
    "descent": {"rates": RATES, "iterations": 12},
    "model": scratch.TINY_MODEL,
    "optim": scratch.OPTIM,
    "loss": scratch.LOSS,
    "loader": scratch.LOADER,
    "trainer": scratch.TRAINER,
    "tracking": {"enabled": True, "uri": None, "experiment": "e", "log_model": False, "system_metrics": False},
}
FILES = {
    "reports/descent.html",
    "reports/descent/section.html",
    *(f"reports/descent/descent-{name}.svg" for name in ("surface", "loss", "edge", "encoder")),
    *(f"results/descent/{name}.csv" for name in ("paths", "surface", "edge", "encoder")),
    "results/descent/summary.json",
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A project with tokenized data of real pairs."""
    folder = tmp_path_factory.mktemp("descent")
    scratch.tokenized(folder / "data/tokenized", train=96, validation=40)
    meta = {"text": ["sentence1", "sentence2"], "labels": ["0", "1"], "tokenizer": {"max_length": 64}}
    (folder / "data/tokenized/meta.json").write_text(json.dumps(meta))
    (folder / "params.yaml").write_text(json.dumps(PARAMS))
    return folder


def written(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("results/**/*"), *folder.glob("reports/**/*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.is_file()}


@pytest.fixture(scope="module")
def done(data) -> dict[str, bytes]:
    """What the stage wrote."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(data)
        stage.main()
    return written(data)


@pytest.fixture
def summary(done) -> dict:
    return json.loads(done["results/descent/summary.json"])


def test_it_writes_its_files_and_no_others(done):
    assert set(done) == FILES


def test_from_the_same_data_every_byte_is_the_same(data, done, monkeypatch):
    monkeypatch.chdir(data)
    (data / "reports/descent.html").unlink()
    stage.main()
    assert written(data) == done


def test_the_page_is_made_of_the_files_alone(data, done, monkeypatch):
    monkeypatch.chdir(data)
    assert stage.html(stage.read_results(stage.RESULTS)).encode() == done["reports/descent.html"]


def test_the_edges_agree(summary):
    assert summary["measured_edge"] == pytest.approx(summary["edge"], rel=0.05)
    assert summary["edge"] == pytest.approx(2 / summary["curvature"], rel=1e-4)


def test_each_rate_has_its_path_and_its_losses(data, done, summary):
    paths = pd.read_csv(data / "results/descent/paths.csv")
    assert list(paths) == ["rate", "iteration", "loss", "accuracy", "x", "y"]
    assert paths.groupby("rate", sort=False)["iteration"].max().to_dict() == dict.fromkeys(
        [*RATES, summary["beyond"]], 12
    )
    assert paths["accuracy"].between(0, 1).all()
    encoder = pd.read_csv(data / "results/descent/encoder.csv")
    assert encoder.groupby("rate", sort=False)["step"].max().to_dict() == dict.fromkeys([*RATES, 1e-3], 12)


def test_paths_end_as_the_summary_says(data, done, summary):
    paths = pd.read_csv(data / "results/descent/paths.csv")
    for run in summary["rates"]:
        path = paths[paths["rate"] == run["rate"]]
        assert path["loss"].iloc[-1] == run["loss"] >= summary["lowest_loss"]
        assert run["rises"] == (path["loss"].diff() > 1e-9).sum()
        assert path["loss"].iloc[0] == summary["start_loss"]


def test_the_surface_holds_all_paths(data, done):
    paths, surface = (pd.read_csv(data / f"results/descent/{name}.csv") for name in ("paths", "surface"))
    for name in ("x", "y"):
        assert surface[name].min() < min(paths[name].min(), 0) and surface[name].max() > max(paths[name].max(), 0)
    assert len(surface) == stage.GRID**2


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"rates": [0.1], "iteration": 50}, r"unknown key descent\.iteration: did you mean descent\.iterations\?"),
        ({"rates": [0.1]}, r"missing key descent\.iterations"),
        ({"rates": [-1.0], "iterations": 50}, r"descent\.rates = \[-1\.0\]: give learning rates above 0"),
        ({"rates": ["0.1"], "iterations": 50}, r"descent\.rates = "),
    ],
)
def test_wrong_settings_are_told_before_anything_is_loaded(tmp_path, monkeypatch, section, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(json.dumps({**PARAMS, "descent": section}))
    with pytest.raises(UserError, match=message):
        stage.main()


def test_missing_data_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(json.dumps(PARAMS))
    with pytest.raises(UserError, match=r"data/tokenized/meta\.json is missing: run `dvc repro`"):
        stage.main()
