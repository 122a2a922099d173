from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import scratch
import yaml

from tuneledger.conf import compose
from tuneledger.errors import UserError
from tuneledger.stages.train import build, read_meta

OVERRIDES = ["model=tiny", "tracking=off", "trainer.max_epochs=1", "trainer.accelerator=cpu"]
SECTIONS = {"data": {"path": "raw", "files": {"train": "a.tsv"}}, "tokenizer": {"path": "m", "max_length": 64}}


META = {"text": ["sentence1", "sentence2"], "labels": ["0", "1"], "tokenizer": {"max_length": 64}}


@pytest.fixture
def tokenized(tmp_path) -> Path:
    (tmp_path / "meta.json").write_text(json.dumps({**SECTIONS, "labels": ["0", "1"]}))
    return tmp_path


class TestReadMeta:
    def test_gives_meta_where_the_settings_are_the_same(self, tokenized):
        assert read_meta(tokenized, {**SECTIONS, "optim": {}})["labels"] == ["0", "1"]

    def test_missing_data_say_what_to_run(self, tmp_path):
        with pytest.raises(UserError, match=f"^{tmp_path} is missing: run `dvc repro tokenize` first$"):
            read_meta(tmp_path, SECTIONS)

    @pytest.mark.parametrize(
        ("section", "values", "changes"),
        [
            ("tokenizer", {"path": "m", "max_length": 32}, r"tokenizer\.max_length=32 \(there: 64\)"),
            (
                "tokenizer",
                {"path": "n", "max_length": 32},
                r"tokenizer\.max_length=32 \(there: 64\), tokenizer\.path=n \(there: m\)",
            ),
            ("data", {"path": "raw", "files": {"train": "b.tsv"}}, r"data\.files\.train=b\.tsv \(there: a\.tsv\)"),
            ("data", {"path": "raw"}, r"data\.files\.train=None \(there: a\.tsv\)"),
        ],
    )
    def test_other_settings_are_named_with_both_values(self, tokenized, section, values, changes):
        expected = (
            f"^{tokenized} was made with other settings than {changes}: "
            "put them into conf/ and run `dvc repro tokenize`, or use `dvc exp run -S`$"
        )
        with pytest.raises(UserError, match=expected):
            read_meta(tokenized, {**SECTIONS, section: values})


class TestBuild:
    @pytest.fixture(scope="class")
    def config(self) -> dict[str, Any]:
        return compose(OVERRIDES)

    def test_gives_a_module_and_batches(self, few_tokens, config):
        module, batches = build(config, META, few_tokens)
        assert module.model.config.id2label == {0: "0", 1: "1"}
        assert (len(batches.train), len(batches.validation)) == (24, 10)
        assert len(batches.epoch_batches) == 2

    @pytest.mark.parametrize(
        ("section", "changes", "message"),
        [
            ("trainer", {"max_epoch": 3}, r"^unknown key trainer\.max_epoch: did you mean trainer\.max_epochs\?$"),
            ("optim", {"weight_deca": 3}, r"^unknown key optim\.weight_deca: did you mean optim\.weight_decay\?$"),
            ("loader", {"batchsize": 3}, r"^unknown key loader\.batchsize: did you mean loader\.batch_size\?$"),
            ("model", {"pth": "x"}, r"^unknown key model\.pth: did you mean model\.path\?$"),
            ("optim", {"lr": 0}, r"^optim\.lr = 0: give a positive number"),
            ("loader", {"padding": "left"}, r"^loader\.padding = left: "),
            ("model", {"dropout": 2}, r"^model\.dropout = 2: "),
            pytest.param("trainer", {"max_epochs": "many"}, r"^trainer\.max_epochs"),
            pytest.param("loader", {"batch_size": "many"}, r"^loader\.batch_size"),
        ],
    )
    def test_a_mistake_in_a_section(self, few_tokens, config, section, changes, message):
        with pytest.raises(UserError, match=message):
            build({**config, section: {**config[section], **changes}}, META, few_tokens)

    @pytest.mark.parametrize("seed", [-1, 2**64, None, "one"])
    def test_a_seed_that_is_none(self, few_tokens, config, seed):
        with pytest.raises(UserError, match=r"^seed = "):
            build({**config, "seed": seed}, META, few_tokens)


@pytest.fixture(scope="module")
def few_tokens(tmp_path_factory) -> Path:
    return scratch.tokenized(tmp_path_factory.mktemp("few"), train=24, validation=10)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project with few tokenized rows, as `dvc repro tokenize` would leave it."""
    root = scratch.copy_project(tmp_path_factory.mktemp("errors"), rows=20)
    folder = scratch.tokenized(root / "data" / "tokenized", train=24, validation=10, max_length=128)
    config = compose(OVERRIDES)
    meta = {"text": ["sentence1", "sentence2"], "labels": ["0", "1"], "splits": {}}
    meta |= {section: config[section] for section in ("data", "tokenizer")}
    (folder / "meta.json").write_text(json.dumps(meta))
    return root


def written(project: Path) -> list[str]:
    """Files of results, models and tracking."""
    places = [project / name for name in ("models", "results", "mlruns", "checkpoints")]
    files = [path for place in places for path in place.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return sorted(path.relative_to(project).as_posix() for path in [*files, *project.glob("mlflow.db*")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.lr=-1"], "optim.lr = -1: give a positive number, such as 1e-4"),
        (["optim.lr=nan"], "optim.lr = nan: give a positive number, such as 1e-4"),
        (["optim.lrr=1"], "unknown key optim.lrr: did you mean optim.lr?"),
        (["trainer.select.metrik=f1"], "unknown key trainer.select.metrik: did you mean trainer.select.metric?"),
        (["model=berrt"], "Could not find 'model/berrt'"),
        (["tokenizer.max_length=32"], "was made with other settings than tokenizer.max_length=32 (there: 128): "),
    ],
)
def test_the_command_ends_with_2_and_one_line(project, arguments, message):
    before = written(project)
    done = scratch.stage(project, "train", *OVERRIDES, *arguments, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1 or message.startswith("Could not find")  # that one lists the options
    assert written(project) == before


def test_under_dvc_a_mistake_in_params_yaml_ends_with_2_and_one_line(project):
    config = compose(OVERRIDES)
    config["optim"]["lrr"] = 1
    (project / "params.yaml").write_text(yaml.safe_dump(config))
    dvc = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]["train"]["cmd"]
    arguments = dvc.partition("-m tuneledger.stages.train ")[2].split()
    before = written(project)
    done = scratch.stage(project, "train", *arguments, check=False, DVC_STAGE="train", DVC_ROOT=str(project))
    assert (done.returncode, done.stderr) == (2, "error: unknown key optim.lrr: did you mean optim.lr?\n")
    assert written(project) == before


def test_a_stage_started_in_another_checkout_stops(project, tmp_path):
    done = scratch.run(
        tmp_path,
        sys.executable,
        "-m",
        "tuneledger.stages.tokenize",
        check=False,
        PYTHONPATH=str(project / "src"),
        DVC_STAGE="tokenize",
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: the stage runs in {tmp_path} but imports tuneledger from {project}: "
        "start it with PYTHONPATH=src, as dvc.yaml does\n"
    )
