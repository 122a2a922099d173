"""What hydra/sweeper=search does: Hydra's launcher runs the jobs, `search` says which and how far."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from tuneledger.conf import bind
from tuneledger.errors import UserError
from tuneledger.sweep.space import Space
from tuneledger.sweep.trial import UNTIL_EPOCH, outcome

SAMPLERS = ("gp", "tpe", "random", "grid")


def planned_trials(space: Space, settings: dict[str, Any]) -> int:
    """How many trials a sweep will have.

    Args:
        settings: the section hydra.sweeper.

    Raises:
        UserError: see `read_plan` and `Space.grid`.
    """
    settings = dict(settings)
    if settings.pop("_target_").endswith(".SearchSweeper"):
        return read_plan(space, settings)["n_trials"]
    return len(space.grid())


def read_plan(space: Space, settings: dict[str, Any]) -> dict[str, Any]:
    """What `plan` makes of a section hydra.sweeper.

    Raises:
        UserError: a setting that is none or cannot be used, or Optuna is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("hydra/sweeper=search needs Optuna: pip install 'tuneledger[sweep]'") from error
    return plan(space, **bind(plan, "hydra.sweeper", settings))


def plan(
    space: Space,
    *,
    sampler: str,
    n_trials: int | None,
    generation: int | None,
    min_epochs: int,
    reduction_factor: int | None,
    seed: int,
) -> dict[str, Any]:
    """The section hydra.sweeper, checked and completed, as keywords of `search`.

    Args:
        sampler: "gp" or "tpe" (Bayesian: by a Gaussian process, by densities of good and bad trials), "random", or
            "grid" (every combination of the choices).
        n_trials: how many, if there are so many different ones; None: all.
        generation: trials proposed and compared at a time; None: all at once for a grid, else a third of n_trials.
        min_epochs, reduction_factor: see `halving`; reduction_factor None prunes nothing.
        seed: of the proposals.

    Raises:
        UserError: a value out of its range, under its full key.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"hydra.sweeper.sampler = {sampler}: choose {', '.join(SAMPLERS)}")
    if not space.swept:
        raise UserError(
            "nothing to search: give a key several values, such as optim.lr=1e-5,1e-4 or interval(1e-5,1e-3)"
        )
    limits = {"n_trials": (n_trials, 1), "generation": (generation, 1), "min_epochs": (min_epochs, 1)}
    limits |= {"reduction_factor": (reduction_factor, 2), "seed": (seed, 0)}
    for key, (value, least) in limits.items():
        if value is not None and value < least:
            raise UserError(f"hydra.sweeper.{key} = {value}: give at least {least}")
    size = len(space.grid()) if sampler == "grid" else space.size()
    n_trials = min(size, math.inf if n_trials is None else n_trials)
    if math.isinf(n_trials):
        raise UserError("hydra.sweeper.n_trials is null: an interval has no end of values, so say how many to try")
    return {
        "sampler": sampler,
        "n_trials": n_trials,
        "generation": generation or (n_trials if sampler == "grid" else -(-n_trials // 3)),
        "min_epochs": min_epochs,
        "reduction_factor": reduction_factor,
        "seed": seed,
    }


def run(config: DictConfig, launcher: Launcher, space: Space, settings: dict[str, Any]) -> None:
    """Search as planned.

    Raises:
        UserError: a trial failed, now or before an interruption; what it raised now goes first.
    """
    from tuneledger.sweep.search import search

    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "multirun.yaml")
    failed: list[JobReturn] = []

    def launch(trials: dict[int, dict[str, Any]], until_epoch: int | None) -> None:
        overrides = [job_overrides(space, number, values, until_epoch) for number, values in trials.items()]
        returns = launcher.launch(overrides, initial_job_idx=min(trials))
        for number, done in zip(trials, returns, strict=True):
            if outcome(folder / str(number)).get("outcome") == "failed":
                failed.append(done)
            else:
                _ = done.return_value  # raises what kept the job from leaving a record

    search(folder, space, launch, max_epochs=config.trainer.max_epochs, **settings)
    for done in failed:
        _ = done.return_value
    for number in range(settings["n_trials"]):
        known = outcome(folder / str(number))
        if known["outcome"] == "failed":
            raise UserError(known["reason"])


def job_overrides(space: Space, number: int, values: dict[str, Any], until_epoch: int | None) -> list[str]:
    """A trial's command line. Its folder is named, since one that goes on is launched again."""
    pause = [] if until_epoch is None else [f"{UNTIL_EPOCH}{until_epoch}"]
    return [*space.fixed, *(f"{key}={value}" for key, value in values.items()), f"hydra.sweep.subdir={number}", *pause]
