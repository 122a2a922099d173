"""Search over a space with trials that stop early: Optuna proposes, successive halving decides who trains on.

The sweep's folder is the whole state: proposals.json and what each trial recorded. A proposal follows from the seed,
its number and the record of earlier trials, so that an interrupted search goes on to the end it would have had.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuneledger.paths import TRAIN_RESULTS, write_json
from tuneledger.sweep.halving import places, rungs, survivors
from tuneledger.sweep.space import Space
from tuneledger.sweep.trial import ENDED, drop_checkpoint, outcome, record

PROPOSALS = "proposals.json"
STARTUP = 4  # trials drawn at random before the first informed proposal; Optuna's own 10 leave a dozen trials none
ATTEMPTS = 100  # to find values not tried before
STATES = dict.fromkeys(("finished", "pruned", "diverged"), TrialState.COMPLETE) | {"failed": TrialState.FAIL}
Values = dict[str, Any]
Launch = Callable[[dict[int, Values], int | None], None]


def search(
    folder: Path,
    space: Space,
    launch: Launch,
    *,
    seed: int,
    max_epochs: int,
    sampler: str,
    n_trials: int,
    generation: int,
    min_epochs: int,
    reduction_factor: int | None,
) -> None:
    """Run, or finish, a search; what comes out is in the trials' folders.

    Args:
        folder: the sweep's.
        launch: called with {trial number: its values} and the epoch after which to pause, None for no pause; returns
            when each of them is there, or has ended earlier.
        seed: of the proposals.
        max_epochs: of a whole training.
        sampler: gp, tpe, random or grid.
        n_trials: in all.
        generation: trials proposed, and then compared, at a time.
        min_epochs: epochs of every trial before the first comparison.
        reduction_factor: one trial in so many goes on from each comparison; None: all train to their end.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    stops = [max_epochs]
    if reduction_factor is not None:
        stops = rungs(max_epochs, min_epochs=min_epochs)
    for first in range(0, n_trials, generation):
        alive = list(range(first, min(first + generation, n_trials)))
        proposals = complete_proposals(folder, space, alive[-1] + 1, sampler, seed)
        for until in stops:
            waiting = {number: proposals[number] for number in alive if not arrived(folder / str(number), until)}
            if waiting:
                launch(waiting, None if until == max_epochs else until)
            if until != max_epochs:
                losses = {number: loss_after(folder / str(number), until) for number in range(len(proposals))}
                reached = {number: loss for number, loss in losses.items() if loss is not None}
                alive = halve(folder, reached, alive, until, reduction_factor)


def arrived(trial: Path, until: int) -> bool:
    """Whether a trial has nothing more to do up to epoch `until`."""
    known = outcome(trial)
    return bool(known) and (known["outcome"] in ENDED or known["epochs"] >= until)


def loss_after(trial: Path, until: int) -> float | None:
    """A trial's lowest validation loss up to epoch `until`; infinity if it diverged before, None if it never got there.

    What becomes of the trial later does not change it, so that a search that goes on decides as it did before.
    """
    known, losses = outcome(trial).get("outcome"), epoch_losses(trial)
    if len(losses) >= until or known == "finished":  # a finished one may have stopped early
        return min(losses[:until])
    return math.inf if known == "diverged" else None


def epoch_losses(trial: Path) -> list[float]:
    """Validation loss after each epoch on record."""
    file = trial / TRAIN_RESULTS / "epochs.csv"
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as handle:
        return [float(row["val_loss"]) for row in csv.DictReader(handle)]


def halve(folder: Path, reached: dict[int, float], alive: list[int], until: int, reduction_factor: int) -> list[int]:
    """Record who is pruned after epoch `until`; gives the numbers of those that go on."""
    going_on = survivors(reached, alive, reduction_factor)
    kept = places(len(reached), reduction_factor)
    for number in alive:
        trial = folder / str(number)
        if number not in going_on and outcome(trial)["outcome"] == "paused":
            loss = f"validation loss {reached[number]:.4f} after epoch {until}"
            record(trial, "pruned", f"{loss}: not among the best {kept} of {len(reached)}")
            drop_checkpoint(trial)
    return going_on


def complete_proposals(folder: Path, space: Space, count: int, sampler: str, seed: int) -> list[Values]:
    """The values of the first `count` trials: those on record, and new ones behind them."""
    file = folder / PROPOSALS
    proposals = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    grid = space.grid() if sampler == "grid" else []
    distributions = to_distributions(space)
    while len(proposals) < count:
        number = len(proposals)
        if grid:
            proposals.append(grid[number])
        else:
            proposals.append(new_values(to_optuna(folder, proposals, distributions), space, sampler, seed))
        write_json(file, proposals)
    return proposals[:count]


def new_values(history: list[FrozenTrial], space: Space, sampler: str, seed: int) -> Values:
    """The values of one more trial: other ones than before, which would give the same again."""
    known, distributions = [trial.params for trial in history], to_distributions(space)
    values = propose(history, distributions, make_sampler(sampler, [seed, len(known)]))
    if values in known and not space.intervals:
        left = [untried for untried in space.grid() if untried not in known]
        return left[int(np.random.default_rng([seed, len(known)]).integers(len(left)))]
    for attempt in range(ATTEMPTS):
        if values not in known:
            break
        values = propose(history, distributions, make_sampler("random", [seed, len(known), attempt]))
    return values


def make_sampler(name: str, seed: list[int]) -> BaseSampler:
    """Optuna's sampler by the name it has in hydra.sweeper.sampler."""
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    if name == "random":
        return RandomSampler(seed=number)
    kind = {"gp": GPSampler, "tpe": TPESampler}[name]
    return kind(seed=number, n_startup_trials=STARTUP)


def propose(history: list[FrozenTrial], distributions: dict[str, BaseDistribution], sampler: BaseSampler) -> Values:
    """The values of one more trial."""
    study = optuna.create_study(sampler=sampler)
    study.add_trials(history)
    drawn = study.ask(distributions).params
    return {key: _rounded(value, distributions[key]) for key, value in drawn.items()}


def _rounded(value: Any, distribution: BaseDistribution) -> Any:
    """Three significant digits, which people can read and no result depends on."""
    if not isinstance(distribution, FloatDistribution):
        return value
    return min(max(float(f"{value:.3g}"), distribution.low), distribution.high)


def to_distributions(space: Space) -> dict[str, BaseDistribution]:
    """Optuna's description of a space."""
    found: dict[str, BaseDistribution] = {key: CategoricalDistribution(values) for key, values in space.choices.items()}
    for key, interval in space.intervals.items():
        kind = IntDistribution if interval.whole else FloatDistribution
        found[key] = kind(interval.low, interval.high, log=interval.log)
    return found


def to_optuna(folder: Path, proposals: list[Values], distributions: dict[str, BaseDistribution]) -> list[FrozenTrial]:
    """What is on record of a search's trials, in Optuna's terms.

    A pruned trial counts with the loss at which it was stopped, since Optuna's Gaussian process would leave it out; a
    diverged one with the worst loss on record, since it cannot reckon with infinity.
    """
    trials = [folder / str(number) for number in range(len(proposals))]
    lowest = [min(epoch_losses(trial), default=None) for trial in trials]
    worst = max((loss for loss in lowest if loss is not None), default=0.0)
    history = []
    for trial, values, loss in zip(trials, proposals, lowest, strict=True):
        kind = outcome(trial).get("outcome")
        state = STATES.get(kind, TrialState.RUNNING)
        value = None if state != TrialState.COMPLETE else worst if kind == "diverged" else loss
        history.append(create_trial(state=state, value=value, params=values, distributions=distributions))
    return history
