from __future__ import annotations

from pathlib import Path

import pytest
import scratch
from omegaconf import OmegaConf

from tuneledger.errors import UserError
from tuneledger.stages.config import check, differences, update

OLD = {"optim": {"lr": 1e-4, "betas": [0.9, 0.99]}, "seed": 1, "conf_sha": "one"}


def settings(sha: str = "one", **optim) -> dict:
    return {**OLD, "optim": {**OLD["optim"], **optim}, "conf_sha": sha}


class TestDifferences:
    def test_none(self):
        assert differences(OLD, settings("two")) == {}

    def test_values_lists_and_keys_on_one_side(self):
        new = {"optim": {"lr": 2e-4, "betas": [0.9, 0.9], "eps": 1e-8}, "conf_sha": "one"}
        assert differences(OLD, new) == {
            "optim.lr": (1e-4, 2e-4),
            "optim.betas": ([0.9, 0.99], [0.9, 0.9]),
            "seed": (1, "(absent)"),
            "optim.eps": ("(absent)", 1e-8),
        }


class TestUpdate:
    def test_nothing_there(self, capsys):
        assert update(None, OLD, None) is True
        assert capsys.readouterr().out == "params.yaml: written from conf/\n"

    @pytest.mark.parametrize("exp_name", [None, "odd-name"])
    def test_up_to_date(self, capsys, exp_name):
        assert update(OLD, settings(), exp_name) is False
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize("exp_name", [None, "odd-name"])
    def test_an_override_of_the_same_conf_is_kept_and_told(self, capsys, exp_name):
        assert update(settings(lr=5e-5), OLD, exp_name) is False
        assert capsys.readouterr().out == "override kept: optim.lr = 5e-05 (conf/: 0.0001)\n"

    def test_after_an_edit_of_conf_it_is_stale_and_told(self, capsys):
        assert update(OLD, settings("two", lr=5e-5), None) is True
        assert capsys.readouterr().out == "params.yaml: optim.lr = 5e-05 (was 0.0001)\n"

    def test_also_after_an_edit_that_changes_no_value(self, capsys):
        assert update(OLD, settings("two"), None) is True
        assert capsys.readouterr().out == ""

    def test_without_a_fingerprint_it_is_stale(self):
        assert update({"seed": 1}, OLD, None) is True

    @pytest.mark.parametrize(
        ("new", "what"), [(settings("two", lr=5e-5), r"optim\.lr"), (settings("two"), "a new file in conf/")]
    )
    def test_an_experiment_composed_from_another_conf_is_refused(self, new, what):
        expected = (
            rf"^experiment odd-name: params\.yaml was not composed from this conf/ \({what}\): "
            r"`git add conf` before queueing, and leave out --no-hydra$"
        )
        with pytest.raises(UserError, match=expected):
            update(OLD, new, "odd-name")


class TestCheck:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"path": None}, "data.path = None: must name the folder with the data, as in data/raw/twins"),
            ({"path": ""}, "data.path = : must name the folder with the data, as in data/raw/twins"),
            ({"path": 2024}, "data.path = 2024: must name the folder with the data, as in data/raw/twins"),
            ({"format": "files"}, "data.path = None: must name the folder with the data, as in data/raw/twins"),
            ({"path": "data/gone"}, "data.path = data/gone: no such file or folder"),
            ({"path": "~"}, "data.path = ~: no such file or folder"),
            ({"path": "~nobody/x"}, "data.path = ~nobody/x: no such file or folder"),
        ],
    )
    def test_a_data_path_that_leads_nowhere(self, data, message):
        with pytest.raises(UserError) as caught:
            check({"data": data})
        assert str(caught.value) == message

    def test_no_data_at_all(self):
        with pytest.raises(UserError, match=r"^data\.path = None: "):
            check({})


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    project = scratch.copy_project(tmp_path_factory.mktemp("config"))
    (project / "params.yaml").unlink(missing_ok=True)
    return project


def edit(project: Path, key: str, value: object) -> None:
    params = OmegaConf.load(project / "params.yaml")
    OmegaConf.update(params, key, value)
    OmegaConf.save(params, project / "params.yaml")


def test_the_stage_in_a_project(copied):
    """One story in one copy, as each process takes a second: absent, written, checked, overridden, stale."""
    checked = scratch.stage(copied, "config", "--check", check=False)
    assert checked.returncode == 1
    assert "optim.lr: params.yaml has (absent), conf/ composes to 0.0001\n" in checked.stdout
    assert not (copied / "params.yaml").exists()

    assert scratch.stage(copied, "config").stdout == "params.yaml: written from conf/\n"
    written = (copied / "params.yaml").read_bytes()
    done = scratch.stage(copied, "config", "--check", check=False)
    assert (done.returncode, done.stdout) == (0, "")
    scratch.stage(copied, "config")
    assert (copied / "params.yaml").read_bytes() == written

    edit(copied, "optim.lr", 0.5)
    overridden = (copied / "params.yaml").read_bytes()
    done = scratch.stage(copied, "config", "--check", check=False)
    assert (done.returncode, done.stdout) == (1, "optim.lr: params.yaml has 0.5, conf/ composes to 0.0001\n")
    assert scratch.stage(copied, "config").stdout == "override kept: optim.lr = 0.5 (conf/: 0.0001)\n"
    assert (copied / "params.yaml").read_bytes() == overridden

    conf = copied / "conf" / "config.yaml"
    conf.write_text(conf.read_text() + "# an edit\n")
    assert scratch.stage(copied, "config", "--check", check=False).returncode == 1
    refused = scratch.stage(copied, "config", check=False, DVC_EXP_NAME="odd-name")
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "error: experiment odd-name: params.yaml was not composed from this conf/ (optim.lr)"
    )
    assert (copied / "params.yaml").read_bytes() == overridden
    assert scratch.stage(copied, "config").stdout == "params.yaml: optim.lr = 0.0001 (was 0.5)\n"
    assert scratch.stage(copied, "config", "--check").stdout == ""


@pytest.mark.parametrize("where", ["conf/optim/adamw.yaml", "params.yaml"])
def test_a_file_that_is_no_yaml_is_named_with_its_line(copied, where):
    file = copied / where
    before = file.read_text() if file.exists() else None
    file.write_text("lr: 1\nbetas: [0.9\nseed: 1\n")
    try:
        done = scratch.stage(copied, "config", check=False)
    finally:
        file.write_text(before) if before is not None else file.unlink()
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert Path(where).name in done.stderr
    assert "line 3" in done.stderr
