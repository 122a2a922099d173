"""The search with trainings that are a formula: everything but the training is real, Optuna included."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("optuna")

from tuneledger import paths
from tuneledger.errors import Diverged, UserError
from tuneledger.paths import write_csv
from tuneledger.sweep.search import PROPOSALS, loss_after, search
from tuneledger.sweep.space import Interval, Space
from tuneledger.sweep.sweeper import plan
from tuneledger.sweep.trial import CHECKPOINT, OUTCOME, outcome, run_trial

MAX_EPOCHS = 4
LR = Space([], {}, {"optim.lr": Interval(1e-6, 1e-1, log=True, whole=False)})
RATES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1)
GRID = Space([], {"optim.lr": [f"{rate:g}" for rate in RATES]}, {})
STEPS = 10  # of an epoch


class Killed(BaseException):
    """The power went."""


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Thousands of small files are written here; that they reach the disk is another test's matter."""
    monkeypatch.setattr(paths, "_sync", lambda path: None)
    monkeypatch.setattr(paths, "_sync_folder", lambda folder: None)


def quadratic(values: dict[str, Any]) -> float:
    """The loss after many epochs; lowest at 3e-4."""
    return (math.log10(float(values["optim.lr"])) - math.log10(3e-4)) ** 2


class Trainer:
    """A launcher, and what it did. Keeps the promises of the real trainings: their records, and their checkpoints.

    Args:
        folder: the sweep's.
        loss: of a trial's values, to which the epochs bring it; infinite: it diverges in the second epoch; nan: it
            fails.
        power: after so many epochs in all the power goes, in the middle of a launch; None: never.
    """

    def __init__(self, folder: Path, loss: Callable[[dict[str, Any]], float] = quadratic, power: int | None = None):
        self.folder, self.loss, self.power = folder, loss, power
        self.epochs: list[tuple[int, int]] = []  # (trial, epoch) as they were trained
        self.launches: list[tuple[list[int], int | None]] = []

    def __call__(self, trials: dict[int, dict[str, Any]], until: int | None) -> None:
        self.launches.append((list(trials), until))
        for number, values in trials.items():
            (self.folder / str(number)).mkdir(exist_ok=True)
            with suppress(UserError):  # of a job that failed; a launcher goes on to the next
                run_trial(self.folder / str(number), lambda n=number, v=values: self.train(n, v, until), until)

    def train(self, number: int, values: dict[str, Any], until: int | None) -> Any:
        file = self.folder / str(number) / CHECKPOINT / "last.json"
        rows = json.loads(file.read_text()) if file.exists() else []
        loss = self.loss(values)
        while len(rows) < (until or MAX_EPOCHS):
            if self.power is not None and len(self.epochs) >= self.power:
                raise Killed
            epoch = len(rows) + 1
            if math.isnan(loss):
                raise UserError(f"optim.lr = {values['optim.lr']} is no good")
            if math.isinf(loss) and epoch == 2:
                raise Diverged("the loss became nan", rows, STEPS + 3)
            self.epochs.append((number, epoch))
            rows.append({"epoch": epoch, "val_loss": (5 if math.isinf(loss) else loss) + 1 / epoch})
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(rows))
        write_csv(self.folder / str(number) / "results/train/epochs.csv", rows)
        totals = {"train_seconds": 1.0 * len(rows), "validation_seconds": 0.0}
        ended = len(rows) == MAX_EPOCHS
        return SimpleNamespace(epochs=rows, steps=rows * STEPS, totals=totals, ended=ended, late_signal=None)


def settings(space: Space, **changes: Any) -> dict[str, Any]:
    given = {"sampler": "tpe", "n_trials": 12, "generation": None, "min_epochs": 1, "reduction_factor": 3, "seed": 1}
    return {**plan(space, **{**given, **changes}), "max_epochs": MAX_EPOCHS}


def run(folder: Path, space: Space, loss: Callable[[dict[str, Any]], float] = quadratic, **changes: Any) -> Trainer:
    trainer = Trainer(folder, loss)
    search(folder, space, trainer, **settings(space, **changes))
    return trainer


def proposals(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / PROPOSALS).read_text())


def outcomes(folder: Path) -> list[dict[str, Any]]:
    """Of all trials, without the seconds of those that ended badly, which are measured."""
    found = [outcome(folder / str(number)) for number in range(len(proposals(folder)))]
    return [{k: v for k, v in known.items() if k != "seconds"} for known in found]


def kinds(folder: Path) -> list[str]:
    return [known["outcome"] for known in outcomes(folder)]


class TestHalving:
    def test_twelve_configurations_take_18_of_48_epochs(self, tmp_path):
        trainer = run(tmp_path, GRID, sampler="grid", n_trials=None)
        assert [(len(trials), until) for trials, until in trainer.launches] == [(12, 1), (4, 2), (1, None)]
        assert len(trainer.epochs) == 12 + 4 + 2 == 18
        assert sum(known["epochs"] for known in outcomes(tmp_path)) == 18
        assert kinds(tmp_path).count("pruned") == 11
        assert kinds(tmp_path)[5] == "finished"  # 3e-4
        assert trainer.launches[1][0] == [5, 4, 6, 3]  # the best first

    def test_the_reason_says_how_a_trial_lagged_behind(self, tmp_path):
        run(tmp_path, GRID, sampler="grid", n_trials=None)
        first = f"validation loss {math.log10(300) ** 2 + 1:.4f} after epoch 1: not among the best 4 of 12"
        later = f"validation loss {math.log10(3) ** 2 + 1 / 2:.4f} after epoch 2: not among the best 1 of 4"
        assert outcomes(tmp_path)[0]["reason"] == first
        assert outcomes(tmp_path)[4]["reason"] == later

    def test_without_pruning_all_train_to_their_end_at_once(self, tmp_path):
        trainer = run(tmp_path, GRID, sampler="grid", n_trials=None, reduction_factor=None)
        assert trainer.launches == [(list(range(12)), None)]
        assert len(trainer.epochs) == 48
        assert kinds(tmp_path) == ["finished"] * 12

    def test_a_pruned_trial_leaves_no_checkpoint(self, tmp_path):
        run(tmp_path, GRID, sampler="grid", n_trials=None)
        assert not list(tmp_path.glob(f"*/{CHECKPOINT}/*"))

    def test_a_later_generation_has_to_beat_the_earlier_ones(self, tmp_path):
        trainer = run(tmp_path, GRID, sampler="grid", n_trials=None, generation=6)
        # 0 to 5 get better and better; of all 12 the best four at epoch 1 are 5, 4, 6, 3.
        assert trainer.launches == [
            ([0, 1, 2, 3, 4, 5], 1), ([5, 4], 2), ([5], None), ([6, 7, 8, 9, 10, 11], 1), ([6], 2),
        ]  # fmt: skip
        assert kinds(tmp_path)[5] == "finished"
        assert outcomes(tmp_path)[6]["reason"].endswith("after epoch 2: not among the best 1 of 3")

    def test_min_epochs(self, tmp_path):
        trainer = run(tmp_path, GRID, sampler="grid", n_trials=None, min_epochs=2)
        assert [(len(trials), until) for trials, until in trainer.launches] == [(12, 2), (4, None)]


def bad_ends(values: dict[str, Any]) -> float:
    """A loss under which trials finish, are pruned, diverge and fail."""
    rate = float(values["optim.lr"])
    return math.nan if rate < 2e-5 else math.inf if rate > 5e-3 else quadratic(values)


class TestBadTrials:
    @pytest.mark.parametrize("sampler", ["grid", "tpe", "gp", "random"])
    def test_they_are_recorded_and_the_search_goes_on(self, tmp_path, sampler):
        space = GRID if sampler == "grid" else LR
        run(tmp_path, space, bad_ends, sampler=sampler)
        expected = [bad_ends(values) for values in proposals(tmp_path)]
        assert len(expected) == 12
        for kind, loss in zip(kinds(tmp_path), expected, strict=True):
            assert (kind == "failed") == math.isnan(loss)
            assert kind != "diverged" or math.isinf(loss)
        assert {"finished", "failed"} < set(kinds(tmp_path))

    def test_one_that_diverges_at_once_is_never_pruned_but_diverged(self, tmp_path):
        def train(trials: dict[int, Any], until: int | None) -> None:
            for number in trials:
                (tmp_path / str(number)).mkdir(exist_ok=True)
                run_trial(tmp_path / str(number), diverge, until)

        def diverge() -> Any:
            raise Diverged("nan", [], 1)

        for sampler in ("tpe", "gp"):
            search(tmp_path, LR, train, **settings(LR, sampler=sampler, n_trials=6))
            assert kinds(tmp_path) == ["diverged"] * 6
            for number in range(6):
                shutil.rmtree(tmp_path / str(number))
            (tmp_path / PROPOSALS).unlink()

    def test_what_a_trial_had_lost_at_a_rung_stays_whatever_becomes_of_it(self, tmp_path):
        write_csv(tmp_path / "results/train/epochs.csv", [{"epoch": 1, "val_loss": 0.5}, {"epoch": 2, "val_loss": 0.7}])
        for kind in ("paused", "diverged", "failed", "pruned"):
            (tmp_path / OUTCOME).write_text(json.dumps({"outcome": kind}))
            assert (loss_after(tmp_path, 1), loss_after(tmp_path, 2)) == (0.5, 0.5)
            assert loss_after(tmp_path, 3) == (math.inf if kind == "diverged" else None)
        (tmp_path / OUTCOME).write_text(json.dumps({"outcome": "finished"}))
        assert loss_after(tmp_path, 4) == 0.5  # stopped early, out of patience


class TestProposals:
    @pytest.mark.parametrize("sampler", ["gp", "tpe", "random"])
    def test_they_follow_from_the_seed(self, tmp_path, sampler):
        drawn = []
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            (tmp_path / name).mkdir()
            run(tmp_path / name, LR, sampler=sampler, seed=seed, n_trials=6)
            drawn.append(proposals(tmp_path / name))
        assert drawn[0] == drawn[1] != drawn[2]
        rates = [values["optim.lr"] for values in drawn[0]]
        assert len(set(rates)) == 6
        assert all(1e-6 <= rate <= 1e-1 and float(f"{rate:.3g}") == rate for rate in rates)

    def test_fewer_trials_are_the_beginning_of_more(self, tmp_path):
        for name, trials in (("few", 4), ("many", 8)):
            (tmp_path / name).mkdir()
            run(tmp_path / name, LR, n_trials=trials, generation=4)
        assert proposals(tmp_path / "many")[:4] == proposals(tmp_path / "few")

    @pytest.mark.parametrize(("sampler", "trials", "seeds"), [("gp", 12, 4), ("tpe", 24, 8)])
    def test_informed_ones_come_nearer_to_the_best_than_random_ones(self, tmp_path, sampler, trials, seeds):
        """By squared distance, in decades of the learning rate, of the last third of the trials."""

        def far(name: str) -> float:
            total = 0.0
            for seed in range(seeds):
                folder = tmp_path / f"{name}{seed}"
                folder.mkdir()
                run(folder, LR, sampler=name, seed=seed, n_trials=trials)
                total += sum(quadratic(values) for values in proposals(folder)[-trials // 3 :])
            return total

        assert far(sampler) < 0.6 * far("random")

    @pytest.mark.parametrize("sampler", ["gp", "tpe", "random"])
    def test_each_kind_of_value_stays_what_it_is(self, tmp_path, sampler):
        choices = {"loader": ["padded", "grouped"], "optim.betas": ["[0.9,0.99]", "[0.8,0.9]"], "x": ["'a b'", "null"]}
        intervals = {
            "optim.lr": Interval(1e-5, 1e-3, log=True, whole=False),
            "loader.batch_size": Interval(8, 32, log=True, whole=True),
        }
        space = Space(["seed=1"], choices, intervals)
        run(tmp_path, space, sampler=sampler, n_trials=8, generation=4)
        for values in proposals(tmp_path):
            assert list(values) == [*choices, *intervals]
            assert all(values[key] in options for key, options in choices.items())
            assert type(values["loader.batch_size"]) is int
            assert type(values["optim.lr"]) is float
            assert 8 <= values["loader.batch_size"] <= 32
            assert 1e-5 <= values["optim.lr"] <= 1e-3

    def test_the_ends_of_an_interval_are_not_rounded_away(self, tmp_path):
        space = Space([], {}, {"optim.lr": Interval(1.2345e-4, 1.2346e-4, log=False, whole=False)})
        run(tmp_path, space, sampler="random", n_trials=3)
        assert all(1.2345e-4 <= values["optim.lr"] <= 1.2346e-4 for values in proposals(tmp_path))

    def test_a_grid_is_taken_as_it_is(self, tmp_path):
        run(tmp_path, GRID, sampler="grid", n_trials=5)
        assert proposals(tmp_path) == GRID.grid()[:5]


@pytest.mark.parametrize(
    ("space", "sampler", "stride"),
    [(GRID, "grid", 1), (LR, "tpe", 1), (LR, "random", 5), (LR, "gp", 7)],
    ids=["grid", "tpe", "random", "gp"],
)
def test_killed_anywhere_and_started_again_it_ends_the_same(tmp_path, space, sampler, stride):
    whole = tmp_path / "whole"
    whole.mkdir()
    undisturbed = run(whole, space, bad_ends, sampler=sampler)
    assert {"finished", "pruned", "failed"} <= set(kinds(whole))
    for power in range(0, len(undisturbed.epochs), stride):
        folder = tmp_path / str(power)
        folder.mkdir()
        first, second = Trainer(folder, bad_ends, power), Trainer(folder, bad_ends)
        with pytest.raises(Killed):
            search(folder, space, first, **settings(space, sampler=sampler))
        ended = {file: file.read_bytes() for file in folder.glob(f"*/{OUTCOME}") if b"paused" not in file.read_bytes()}
        search(folder, space, second, **settings(space, sampler=sampler))
        assert proposals(folder) == proposals(whole)
        assert outcomes(folder) == outcomes(whole)
        trained = first.epochs + second.epochs
        assert len(trained) == len(set(trained))
        assert set(trained) == set(undisturbed.epochs)
        assert {file: file.read_bytes() for file in ended} == ended
        assert Trainer(folder).epochs == []


def test_killed_at_any_write_it_ends_the_same(tmp_path, monkeypatch):
    """The other moments at which a process can die: before any of the files that search and trials write."""
    from tuneledger.sweep import search as module
    from tuneledger.sweep import trial

    original = trial.write_json
    countdown = math.inf

    def fragile(path: Path, value: object) -> None:
        nonlocal countdown
        if countdown == 0:
            raise Killed
        countdown -= 1
        original(path, value)

    monkeypatch.setattr(trial, "write_json", fragile)
    monkeypatch.setattr(module, "write_json", fragile)
    whole = tmp_path / "whole"
    whole.mkdir()
    undisturbed = run(whole, LR, bad_ends)
    for writes in range(60):
        folder = tmp_path / str(writes)
        folder.mkdir()
        countdown = writes
        first, second = Trainer(folder, bad_ends), Trainer(folder, bad_ends)
        try:
            search(folder, LR, first, **settings(LR))
        except Killed:
            countdown = math.inf
            search(folder, LR, second, **settings(LR))
        assert proposals(folder) == proposals(whole)
        assert outcomes(folder) == outcomes(whole)
        assert sorted(first.epochs + second.epochs) == sorted(undisturbed.epochs)
        if countdown not in (math.inf, 0):
            break
    else:
        raise AssertionError("there are more than 60 writes")
    assert writes > 20


def test_a_finished_search_started_again_does_nothing(tmp_path):
    run(tmp_path, LR)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    assert run(tmp_path, LR).launches == []
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == before


def test_the_epochs_on_record_are_read_as_numbers(tmp_path):
    run(tmp_path, GRID, sampler="grid")
    with (tmp_path / "5/results/train/epochs.csv").open(newline="") as handle:
        assert [float(row["val_loss"]) for row in csv.DictReader(handle)] == [1 / epoch for epoch in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "cma"}, r"^hydra\.sweeper\.sampler = cma: choose gp, tpe, random, grid$"),
        ({"n_trials": 0}, r"^hydra\.sweeper\.n_trials = 0: give at least 1$"),
        ({"n_trials": None}, r"^hydra\.sweeper\.n_trials is null: an interval has no end of values, so say"),
        ({"generation": 0}, r"^hydra\.sweeper\.generation = 0: give at least 1$"),
        ({"min_epochs": 0}, r"^hydra\.sweeper\.min_epochs = 0: give at least 1$"),
        ({"reduction_factor": 1}, r"^hydra\.sweeper\.reduction_factor = 1: give at least 2$"),
        ({"seed": -1}, r"^hydra\.sweeper\.seed = -1: give at least 0$"),
    ],
)
def test_what_cannot_be_planned(changes, message):
    with pytest.raises(UserError, match=message):
        settings(LR, **changes)


def test_the_plan_is_completed():
    assert (settings(LR)["n_trials"], settings(LR)["generation"]) == (12, 4)
    assert settings(LR, n_trials=2)["generation"] == 1
    assert settings(LR, generation=5)["generation"] == 5
    grid = settings(GRID, sampler="grid", n_trials=None)
    assert (grid["n_trials"], grid["generation"]) == (12, 12)
    assert settings(GRID, sampler="grid", n_trials=99)["n_trials"] == 12
    with pytest.raises(UserError, match=r"^optim\.lr is an interval"):
        settings(LR, sampler="grid")
    with pytest.raises(UserError, match=r"^nothing to search: give a key several values"):
        settings(Space(["seed=1"], {}, {}))


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_finite_space_is_tried_to_its_end_and_nothing_twice(tmp_path, sampler):
    space = Space([], {"seed": [str(seed) for seed in range(9)], "loader": ["padded", "grouped"]}, {})
    run(tmp_path, space, lambda values: float(values["seed"]), sampler=sampler, n_trials=None)
    assert len({tuple(sorted(values.items())) for values in proposals(tmp_path)}) == 18
