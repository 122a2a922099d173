"""The values of a sweep, and what follows from them: its settings, their ranking, the winner, what pruning spared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tuneledger.judge.compare import Place, Runs, rank

SEED = "seed"  # the swept key that makes no other setting


@dataclass(frozen=True)
class Trial:
    """One training of a sweep.

    Args:
        number: of the job.
        overrides: swept key -> value as written.
        outcome: finished, pruned, diverged, failed or unfinished.
        reason: one line for the last four.
        epochs: as results/train/epochs.csv; may be empty.
        scores: of the kept epoch: val_loss, accuracy, accuracy_low, accuracy_high, f1, best_epoch; {} unless finished.
        steps: optimizer steps taken.
        seconds: of training and validation.
        usd: their price, None if the hardware has none.
        correct: which validation rows the kept epoch gets right, bool (rows,); None unless finished.
        run_id: of the MLflow run, None without one.
    """

    number: int
    overrides: dict[str, str]
    outcome: str
    reason: str
    epochs: pd.DataFrame
    scores: dict[str, float]
    steps: int
    seconds: float
    usd: float | None
    correct: np.ndarray | None
    run_id: str | None


@dataclass(frozen=True)
class SweepResults:
    """A sweep, finished or not.

    Args:
        name: its folder, such as multirun/2026-11-24/03-10-11.
        command: the command line that made it.
        metric: what ranks trials: val_loss, accuracy or f1.
        mode: min or max.
        trials: by number.
        majority_baseline: accuracy of always giving the most frequent validation label.
        planned_steps: if every trial ran all its epochs.
        price_text: what an hour costs, as `sections.price_text` gives it.
        promote: the command that writes the winner into conf/.
    """

    name: str
    command: str
    metric: str
    mode: str
    trials: list[Trial]
    majority_baseline: float
    planned_steps: int
    price_text: str
    promote: str


@dataclass(frozen=True)
class Setting:
    """The trials that differ in nothing but the seed.

    Args:
        overrides: without the seed.
        trials: all of them.
        finished: those that finished, one of each seed: a search may propose the same twice, which shows nothing new.
    """

    overrides: dict[str, str]
    trials: list[Trial]
    finished: list[Trial]

    @property
    def thinned(self) -> bool:
        """Whether seeds are missing because they did badly."""
        return any(trial.outcome in ("pruned", "diverged") for trial in self.trials)

    def scores(self, name: str) -> np.ndarray:
        """A score of each finished trial."""
        return np.array([trial.scores[name] for trial in self.finished])

    def mean(self, name: str) -> float:
        """Mean of a score over the seeds; of an interval's ends, the ends of the mean's, wider than need be."""
        return float(self.scores(name).mean())


@dataclass(frozen=True)
class Savings:
    """What pruning left out.

    Args:
        steps: that pruned trials would have taken to the end.
        share: of the steps that all trials would have taken had none been pruned.
        seconds, usd: of those steps at each trial's own pace; usd None without a price.
    """

    steps: float
    share: float
    seconds: float
    usd: float | None


Ranking = list[tuple[Setting, Place]]


def settings(trials: list[Trial]) -> list[Setting]:
    """Trials by what was swept beside the seed, in the order of their first trials."""
    groups: dict[tuple[tuple[str, str], ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(tuple(sorted(without_seed(trial.overrides).items())), []).append(trial)
    return [Setting(without_seed(group[0].overrides), group, _one_of_each_seed(group)) for group in groups.values()]


def ranked(results: SweepResults) -> Ranking:
    """Settings with a finished trial, best first."""
    candidates = [setting for setting in settings(results.trials) if setting.finished]
    runs = [
        Runs(
            scores=setting.scores(results.metric),
            correct=np.array([trial.correct for trial in setting.finished]),
            thinned=setting.thinned,
        )
        for setting in candidates
    ]
    return [(candidates[place.index], place) for place in rank(runs, results.mode)]


def winner(results: SweepResults) -> Trial | None:
    """The trial to promote: of the first setting the best seed."""
    ranking = ranked(results)
    return best_seed(ranking[0][0], results) if ranking else None


def best_seed(setting: Setting, results: SweepResults) -> Trial:
    """Of a setting's finished trials the one with the best score, the earlier one of equals."""
    sign = 1 if results.mode == "min" else -1
    return min(setting.finished, key=lambda trial: (sign * trial.scores[results.metric], trial.number))


def savings(trials: list[Trial]) -> Savings | None:
    """What pruning saved; None if nothing was pruned, or nothing finished to measure it against."""
    spared = [(trial, share) for trial in trials if (share := spared_share(trial, trials))]
    if not spared:
        return None
    steps = sum(trial.steps * share for trial, share in spared)
    return Savings(
        steps=steps,
        share=steps / (steps + sum(trial.steps for trial in trials)),
        seconds=sum(trial.seconds * share for trial, share in spared),
        usd=None if any(trial.usd is None for trial, _ in spared) else sum(t.usd * share for t, share in spared),
    )


def spared_share(trial: Trial, trials: list[Trial]) -> float:
    """What pruning left out of a trial as a multiple of what it took, had it run as long as the longest that finished.

    0 for a trial that was not pruned, or if none finished.
    """
    longest = max((len(other.epochs) for other in trials if other.outcome == "finished"), default=0)
    if trial.outcome != "pruned" or not len(trial.epochs):
        return 0.0
    return max(0.0, longest / len(trial.epochs) - 1)


def without_seed(overrides: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in overrides.items() if key != SEED}


def _one_of_each_seed(trials: list[Trial]) -> list[Trial]:
    found: dict[str | None, Trial] = {}
    for trial in trials:
        if trial.outcome == "finished":
            found.setdefault(trial.overrides.get(SEED), trial)
    return list(found.values())
