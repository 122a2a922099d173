from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from tuneledger import conf
from tuneledger.errors import UserError
from tuneledger.sweep import promote as module
from tuneledger.sweep.promote import experiment_yaml, promote

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A conf/ to write into."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    for where in (conf, module):
        monkeypatch.setattr(where, "conf_dir", lambda: tmp_path / "conf")
    return tmp_path / "conf"


def make_sweep(folder: Path, *overrides: str, winner: int | None = 2, finished: bool = True) -> Path:
    """A sweep's folder, as far as the winner's settings go; composed by Hydra as a job is."""
    sweep = folder.parent / "multirun" / "2026-11-24" / "09-30-00"
    shutil.rmtree(sweep, ignore_errors=True)
    record = sweep / "2" / ".hydra"
    record.mkdir(parents=True)
    with initialize_config_dir(str(folder), version_base="1.3"):
        config = hydra_compose("config", overrides=[*overrides, "+until_epoch=1"], return_hydra_config=True)
        OmegaConf.save({"hydra": {"runtime": {"choices": config.hydra.runtime.choices}}}, record / "hydra.yaml")
        plain = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
        OmegaConf.save(plain, record / "config.yaml")
    OmegaConf.save(OmegaConf.create([*overrides, "+until_epoch=1"]), record / "overrides.yaml")
    (sweep / "sweep.json").write_text(json.dumps({"finished": finished, "winner": winner}))
    return sweep


def settings(*overrides: str) -> dict:
    found = conf.compose(list(overrides))
    del found["conf_sha"]
    return found


def select(folder: Path, experiment: str) -> None:
    file = folder / "config.yaml"
    file.write_text(re.sub(r"- experiment: \S+", f"- experiment: {experiment}", file.read_text()))


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "overrides",
    [
        ["optim.lr=3e-05"],
        ["optim.lr=3e-05", "seed=2"],
        ["loader=padded"],
        ["loader=padded", "loader.batch_size=4", "model=tiny"],
        ["experiment=smoke", "optim.lr=3e-05"],
        ["experiment=deck", "model=minilm", "loader=grouped"],
        ["trainer.gradient_clip_val=null"],
        ["trainer.patience=2", "trainer.gradient_clip_val=null"],
        ["optim.betas=[0.8,0.95]"],
        ["data.label='is, or not'"],
        ["data.label='1e-5'"],
        ["data.label='null'"],
        ["data.label='a: b # c'"],
        ["data.text=[question,'the answer']"],
        ["data.files.test=null"],
        ["++optim.lr=3e-05"],
        ["data.label=${model.path}"],
        ["model.architecture={hidden_size:64,num_hidden_layers:1}", "model=tiny"],
        ['tracking="off"', "cost.usd_per_hour=2", "seed=3"],
        [],
    ],
    ids=", ".join,
)
def test_the_experiment_composes_to_the_winners_settings(folder, overrides):
    expected = settings(*overrides)
    written = promote(make_sweep(folder, *overrides), "winner")
    assert written == folder / "experiment" / "winner.yaml"
    assert settings() == expected  # it is selected
    assert "until_epoch" not in written.read_text()


@pytest.mark.parametrize(
    ("selected", "override"), [("smoke", []), ("smoke", ["experiment=deck", "model=tiny"]), ("deck", ["~experiment"])]
)
def test_it_builds_on_the_experiment_the_sweep_ran_with(folder, selected, override):
    select(folder, selected)
    overrides = [*override, "optim.lr=7e-05"]
    expected = settings(*overrides)
    sweep = make_sweep(folder, *overrides)
    select(folder, "null")  # somebody selected another one meanwhile
    promote(sweep, "winner")
    assert settings() == expected


def test_what_is_written_is_short_and_says_where_it_comes_from(folder):
    text = promote(make_sweep(folder, "optim.lr=3e-05", "loader=padded", "experiment=smoke"), "fast").read_text()
    assert text == (
        "# @package _global_\n# The winner of multirun/2026-11-24/09-30-00.\n"
        "defaults:\n- smoke\n- override /loader: padded\noptim:\n  lr: 3.0e-05\n"
    )


def test_the_selecting_line_is_all_that_changes_in_the_config(folder):
    file = folder / "config.yaml"
    before = file.read_text()
    promote(make_sweep(folder, "seed=2"), "winner")
    assert file.read_text() == before.replace("- experiment: null", "- experiment: winner")


def test_a_second_sweep_builds_on_the_first_winner_under_another_name(folder):
    promote(make_sweep(folder, "optim.lr=3e-05"), "winner")
    sweep = make_sweep(folder, "seed=5")
    before = files(folder)
    with pytest.raises(UserError) as error:
        promote(sweep, "winner")
    assert str(error.value) == "the sweep builds on the experiment winner: choose another --name"
    assert files(folder) == before
    promote(sweep, "winner2")
    assert (settings()["optim"]["lr"], settings()["seed"]) == (3e-05, 5)


def test_a_winner_replaces_an_earlier_one_that_it_does_not_build_on(folder):
    promote(make_sweep(folder, "optim.lr=3e-05"), "winner")
    promote(make_sweep(folder, "experiment=smoke", "seed=5"), "winner")
    assert settings() == settings("experiment=smoke", "seed=5")


def test_promoting_twice_changes_nothing_more(folder):
    sweep = make_sweep(folder, "optim.lr=3e-05")
    promote(sweep, "winner")
    before = files(folder)
    promote(sweep, "winner")
    assert files(folder) == before


def refused(folder: Path, sweep: Path, name: str = "winner") -> str:
    before = files(folder)
    with pytest.raises(UserError) as error:
        promote(sweep, name)
    assert files(folder) == before
    return str(error.value)


class TestRefused:
    def test_an_experiment_written_by_hand_is_not_overwritten(self, folder):
        assert refused(folder, make_sweep(folder, "seed=2"), "smoke").endswith(
            "experiment/smoke.yaml is there, written by hand: choose another --name"
        )

    def test_the_experiment_the_sweep_overrode_to(self, folder):
        text = refused(folder, make_sweep(folder, "experiment=smoke", "seed=2"), "smoke")
        assert text == "the sweep builds on the experiment smoke: choose another --name"

    def test_a_ring_of_experiments(self, folder):
        promote(make_sweep(folder, "optim.lr=3e-05"), "winner")
        promote(make_sweep(folder, "seed=5"), "winner2")
        sweep = make_sweep(folder, "seed=6")
        assert refused(folder, sweep) == "the sweep builds on the experiment winner: choose another --name"

    @pytest.mark.parametrize("name", ["", "2nd", "a/b", "../x", "a-b", "null\n"])
    def test_a_name_that_is_none(self, folder, name):
        assert refused(folder, make_sweep(folder, "seed=2"), name).startswith(f"--name {name}: take letters")

    def test_a_folder_that_is_no_sweep(self, folder, tmp_path):
        text = refused(folder, tmp_path / "nowhere")
        hint = "give the folder that it named, such as multirun/2026-11-24/09-30-00"
        assert text == f"{tmp_path / 'nowhere'} is no sweep: {hint}"

    def test_a_sweep_that_is_not_finished(self, folder):
        sweep = make_sweep(folder, "seed=2", finished=False)
        assert refused(folder, sweep) == f"the sweep in {sweep} is not finished: the same command goes on with it"

    def test_a_sweep_without_a_winner(self, folder):
        sweep = make_sweep(folder, "seed=2", winner=None)
        assert refused(folder, sweep) == f"no trial of the sweep in {sweep} finished, so there is no winner"

    def test_a_conf_that_has_changed(self, folder):
        sweep = make_sweep(folder, "optim.lr=3e-05")
        file = folder / "loader" / "grouped.yaml"
        file.write_text(file.read_text().replace("batch_size: 16", "batch_size: 8", 1))
        assert refused(folder, sweep) == (
            "conf/ has changed since the sweep: loader.batch_size = 8 (then: 16); undo that, or sweep again"
        )

    def test_a_conf_with_a_setting_more(self, folder):
        sweep = make_sweep(folder, "optim.lr=3e-05")
        file = folder / "optim" / "adamw.yaml"
        file.write_text(file.read_text() + "\nfused: true\n")
        assert "optim.fused = True (then: None)" in refused(folder, sweep)

    def test_other_prices_and_tracking_do_not_matter(self, folder):
        sweep = make_sweep(folder, "optim.lr=3e-05")
        for name, old, new in (
            ("cost/aws_us_east_1.yaml", "usd_per_hour: null", "usd_per_hour: 1"),
            ("tracking/local.yaml", "log_model: true", "log_model: false"),
        ):
            file = folder / name
            assert file.read_text().count(old) == 1
            file.write_text(file.read_text().replace(old, new))
        promote(sweep, "winner")

    def test_a_config_without_the_line_to_select_with(self, folder):
        sweep = make_sweep(folder, "optim.lr=3e-05")
        file = folder / "config.yaml"
        file.write_text(file.read_text().replace("  - experiment: null\n", ""))
        assert "has no line `  - experiment: ...` to select the winner with" in refused(folder, sweep)

    def test_a_deletion(self, folder):
        with pytest.raises(UserError, match=r"^~optim\.eps: a deletion cannot be written into conf/$"):
            experiment_yaml(["~optim.eps"], None, folder)


def test_the_command(folder, capsys, monkeypatch):
    sweep = make_sweep(folder, "optim.lr=3e-05")
    monkeypatch.setattr(sys, "argv", ["promote", str(sweep), "--name", "fast"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0
    assert capsys.readouterr().out == (
        f"wrote {folder / 'experiment' / 'fast.yaml'} and selected it in {folder / 'config.yaml'}; "
        "`dvc repro` trains it\n"
    )
    monkeypatch.setattr(sys, "argv", ["promote", "nowhere"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: nowhere is no sweep")
