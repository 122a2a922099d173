"""Made-up sweeps, as their pages get them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from tuneledger.judge.intervals import wilson
from tuneledger.show.sweep import SweepResults, Trial

ROWS = 300
STEPS = 80  # of an epoch
PRICE = 1.2  # dollars an hour


def trial(number: int, outcome: str = "finished", *, accuracy: float = 0.75, epochs: int = 3, **fields: Any) -> Trial:
    """A trial whose last epoch is the kept one.

    Args:
        accuracy: of the kept epoch; about this share of the rows is right, which ones follows from `draw`.
        fields: of `Trial`, instead of made-up ones; `draw` (a seed) and `val_loss` (of the kept epoch) beside them.
    """
    draw, val_loss = fields.pop("draw", number), fields.pop("val_loss", 1.1 - accuracy)
    correct = right(accuracy, draw)
    table = curve(float(correct.mean()), val_loss, epochs)
    last = table.iloc[-1].to_dict() if epochs else {}
    finished = outcome == "finished"
    made_up = {
        "overrides": {"optim.lr": f"{number + 1}e-5"},
        "reason": "" if finished else f"{outcome} for a reason",
        "epochs": table,
        "scores": {**{name: last[name] for name in SCORES}, "best_epoch": epochs} if finished else {},
        "steps": STEPS * epochs,
        "seconds": 30.0 * epochs,
        "usd": PRICE * 30.0 * epochs / 3600,
        "correct": correct if finished else None,
        "run_id": f"{number:032x}",
    }
    return Trial(number=number, outcome=outcome, **{**made_up, **fields})


SCORES = ("val_loss", "accuracy", "accuracy_low", "accuracy_high", "f1")


def right(accuracy: float, draw: int) -> np.ndarray:
    """Which rows are right: some rows are hard for every model, and each model has luck of its own."""
    hardness = np.random.default_rng(99).normal(size=ROWS)
    luck = np.random.default_rng(draw).normal(size=ROWS)
    score = hardness + 0.5 * luck
    return score < np.quantile(score, accuracy)


def curve(accuracy: float, val_loss: float, epochs: int) -> pd.DataFrame:
    """results/train/epochs.csv of a training that gets better until the end."""
    rows = []
    for epoch in range(1, epochs + 1):
        left = (1 - epoch / epochs) * 0.1
        low, high = wilson(round((accuracy - left) * ROWS), ROWS)
        losses = {"train_loss": val_loss + left - 0.05, "val_loss": val_loss + left}
        scores = {"accuracy": accuracy - left, "accuracy_low": low, "accuracy_high": high, "f1": accuracy - left - 0.1}
        rows.append({"epoch": epoch, "step": STEPS * epoch, **losses, **scores})
    return pd.DataFrame(rows, columns=["epoch", "step", "train_loss", *SCORES])


def sweep(trials: list[Trial], **fields: Any) -> SweepResults:
    """A sweep of these trials, ranked by validation loss unless `fields` of SweepResults say otherwise."""
    made_up = {
        "name": "multirun/2026-11-24/03-10-11",
        "command": "python -m tuneledger.stages.train --multirun optim.lr=1e-5,1e-4",
        "metric": "val_loss",
        "mode": "min",
        "majority_baseline": 0.64,
        "planned_steps": len(trials) * 3 * STEPS,
        "price_text": "$1.2 an hour, a price list, as of 2026-11-01",
        "promote": "python -m tuneledger.sweep.promote multirun/2026-11-24/03-10-11",
    }
    return SweepResults(trials=trials, **{**made_up, **fields})


def rates_by_seeds() -> SweepResults:
    """Four learning rates with three seeds each: 3e-5 leads, 1e-4 ties with it, 1e-5 and 1e-3 do not."""
    levels = {"1e-5": 0.62, "3e-5": 0.80, "1e-4": 0.79, "1e-3": 0.66}
    trials = []
    for rate, level in levels.items():
        for seed in (1, 2, 3):
            accuracy = level + (seed - 2) * 0.01
            overrides = {"optim.lr": rate, "seed": str(seed)}
            trials.append(trial(len(trials), accuracy=accuracy, overrides=overrides))
    command = "python -m tuneledger.stages.train --multirun optim.lr=1e-5,3e-5,1e-4,1e-3 seed=1,2,3"
    return sweep(trials, command=command)


def pruned_search() -> SweepResults:
    """Twelve drawn learning rates: three finished, six pruned, two diverged, one failed."""
    rates = np.random.default_rng(3).permutation(np.geomspace(1.2345e-5, 0.31234567, 12)).tolist()
    diverging, failed = sorted(range(12), key=lambda number: rates[number])[-2:], 4
    trials = []
    for number, rate in enumerate(rates):
        far = abs(math.log10(rate / 2e-4))
        overrides = {"optim.lr": repr(rate)}
        if number == failed:
            reason = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB"
            trials.append(trial(number, "failed", epochs=0, overrides=overrides, reason=reason, seconds=2.5))
        elif number in diverging:
            reason = f"the loss is no longer a number at step 17 (optim.lr = {rate:.3g}): lower the learning rate"
            trials.append(trial(number, "diverged", epochs=0, steps=17, overrides=overrides, reason=reason, usd=None))
        elif far < 0.9:
            trials.append(trial(number, accuracy=0.82 - 0.06 * far, epochs=4, overrides=overrides))
        else:
            epochs = 1 if far > 1.3 else 2
            reason = f"validation loss {0.3 + 0.2 * far:.4f} after epoch {epochs}: not among the best 2 of {number + 1}"
            fields = {"accuracy": 0.7 - 0.02 * far, "val_loss": 0.3 + 0.2 * far, "epochs": epochs}
            trials.append(trial(number, "pruned", overrides=overrides, reason=reason, **fields))
    command = (
        "python -m tuneledger.stages.train --multirun hydra/sweeper=search 'optim.lr=tag(log,interval(1e-5,1))' "
        "trainer.max_epochs=4 hydra.sweeper.n_trials=12"
    )
    return sweep(trials, command=command, planned_steps=12 * 4 * STEPS)


def groups() -> SweepResults:
    """Two options of a whole group at two learning rates, ranked by accuracy."""
    levels = {("padded", "1e-4"): 0.74, ("padded", "3e-4"): 0.78, ("grouped", "1e-4"): 0.75, ("grouped", "3e-4"): 0.8}
    trials = [
        trial(number, accuracy=accuracy, overrides={"loader": loader, "optim.lr": rate}, usd=None)
        for number, ((loader, rate), accuracy) in enumerate(levels.items())
    ]
    price = "no price for this hardware: set cost.usd_per_hour"
    command = "python -m tuneledger.stages.train --multirun loader=padded,grouped optim.lr=1e-4,3e-4"
    return sweep(trials, metric="accuracy", mode="max", price_text=price, command=command)


def loaders() -> SweepResults:
    """Two options of a group and nothing else."""
    return sweep([trial(n, overrides={"loader": name}) for n, name in enumerate(["padded", "grouped"])])


def seeds() -> SweepResults:
    """One setting with four seeds."""
    return sweep([trial(n, accuracy=0.74 + 0.01 * n, overrides={"seed": str(n + 1)}) for n in range(4)])


def nothing_finished() -> SweepResults:
    """Two trials that diverged, one that failed and one that the end of the process left behind."""
    trials = [
        trial(0, "diverged", epochs=1, reason="the loss is no longer a number at step 97: lower the learning rate"),
        trial(1, "diverged", epochs=0, steps=12, reason="the loss is no longer a number at step 12"),
        trial(2, "failed", epochs=0, reason="data/raw/mine/train.tsv:17:3: this row has 2 columns, not 3", usd=None),
        trial(3, "unfinished", epochs=2, reason="not finished"),
    ]
    return sweep(trials, majority_baseline=math.nan)


def many(trials: int = 60) -> SweepResults:
    """A grid of many learning rates and one seed."""
    rates = np.geomspace(1e-6, 1e-2, trials)
    return sweep(
        [
            trial(n, accuracy=0.8 - 0.03 * abs(math.log10(rate / 1e-4)), overrides={"optim.lr": f"{rate:.6g}"})
            for n, rate in enumerate(rates.tolist())
        ]
    )
