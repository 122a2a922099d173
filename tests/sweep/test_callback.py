"""The order in which a sweep comes to its end, and what it refuses before it begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import sweeps
from omegaconf import OmegaConf

from tuneledger.errors import UserError
from tuneledger.sweep import callback
from tuneledger.sweep.callback import Sweep, check_folders, check_swept, sweep_identity
from tuneledger.sweep.space import Space

HYDRA = {
    "sweep": {"dir": "multirun", "subdir": "${hydra.job.num}"},
    "output_subdir": ".hydra",
    "sweeper": {"max_batch_size": None},
}


@pytest.fixture
def ending(tmp_path, monkeypatch) -> Sweep:
    """A sweep whose trials are done."""
    results = sweeps.rates_by_seeds()
    monkeypatch.setattr("tuneledger.sweep.jobs.read_sweep", lambda *args: results)
    monkeypatch.setattr(callback, "code_root", lambda: tmp_path)
    sweep = Sweep()
    sweep.closed, sweep.folder, sweep.settings, sweep.space = False, tmp_path, {}, None
    sweep.planned = len(results.trials)
    sweep.finished = []
    sweep.sweep = SimpleNamespace(finish=sweep.finished.append)
    return sweep


def test_a_sweep_is_complete_only_when_all_is_stored(ending, monkeypatch):
    class PowerCut(BaseException):
        pass

    def cut(*args: Any) -> None:
        raise PowerCut

    monkeypatch.setattr(ending, "_close_parent", cut)
    with pytest.raises(PowerCut):
        ending.close()
    assert ending.finished == []


def test_a_complete_sweep_has_a_winner(ending, monkeypatch):
    monkeypatch.setattr(ending, "_close_parent", lambda *args: None)
    ending.close()
    ending.close()
    assert ending.finished == [5]  # the best seed of the best setting


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("sweep", {"dir": "multirun", "subdir": "${hydra.job.override_dirname}"}, "hydra.sweep.subdir is set"),
        ("output_subdir", None, "hydra.output_subdir = None: leave it out"),
        ("sweeper", {"max_batch_size": 1}, "hydra.sweeper.max_batch_size is set"),
    ],
)
def test_what_would_hide_the_trials_is_refused(section, value, message):
    check_folders(OmegaConf.create(HYDRA))
    with pytest.raises(UserError, match=message):
        check_folders(OmegaConf.create({**HYDRA, section: value}))


@pytest.mark.parametrize("key", ["data", "data.path", "tokenizer.max_length", "+tokenizer.more"])
def test_the_data_cannot_be_swept(key):
    with pytest.raises(UserError, match="cannot be swept: all trials train on what `dvc repro` tokenized"):
        check_swept(Space([], {key: ["1", "2"]}, {}))


SETTINGS = {"optim": {"lr": 1e-4}, "cost": {"usd_per_hour": 1.0}, "descent": {"iterations": 50}}


class TestIdentity:
    @pytest.fixture
    def of(self, tmp_path):
        (tmp_path / "train.arrow").write_bytes(b"x")
        return lambda given, **changes: sweep_identity(given, {}, {**SETTINGS, **changes}, tmp_path)

    @pytest.mark.parametrize(
        "apart", ["tracking.enabled=false", "tracking=off", "cost.usd_per_hour=2", "++lr_find.steps=50", "hydra/x=y"]
    )
    def test_what_no_result_follows_from_is_no_part_of_it(self, of, apart):
        assert of(["seed=1,2", apart]) == of(["seed=1,2"])
        assert of([], cost={}, descent={}) == of([])

    def test_what_a_result_follows_from_is(self, of):
        assert len({of(["seed=1,2"]), of(["seed=1,3"]), of([], optim={"lr": 2e-4}), of(["costly.key=1"])}) == 4
