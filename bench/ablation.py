"""What the settings of experiment=pairs bring on MRPC: `python bench/ablation.py` writes bench/results/ablation.*.

Two trainings at a time, a thread each: scores do not depend on the clock. Every finished one is in the results at once,
and the same command goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from contestants import BF16, LECTURE, PAIRS
from filelock import FileLock
from machine import end_with_children, environment
from project import BENCH, MRPC, ROOT, WORK, fingerprint, make_project, mrpc_digests, sources, stage
from scipy.stats import ttest_1samp
from table import interval

from tuneledger.conf import compose
from tuneledger.errors import exit_code
from tuneledger.judge.intervals import CONFIDENCE
from tuneledger.ledger.provenance import git_commit
from tuneledger.paths import TRAIN_RESULTS, remove, replacing, write_json, write_text
from tuneledger.show.tables import ABSENT, markdown, number
from tuneledger.stages.train import WEIGHT_SECTIONS

TOGETHER = 2
FEWEST = 3  # seeds of which an interval says anything
RESULTS = BENCH / "results" / "ablation.json"
# Beside rate and batches this differs from the lecture's in weight decay 0.01 and grouping by length.
PLAIN = (*PAIRS, "model.head=null", "model.both_orders=false", "trainer.average=null", "model.frozen_layers=0")


class Variant(NamedTuple):
    """Settings, and the variant that lacks what they bring."""

    settings: tuple[str, ...]
    beside: str | None


START = "the lecture's recipe"
BARE = "2e-4 with warm-up, batches of 16 of like length, weight decay"
RECIPE = "+ 2 layers frozen = experiment=pairs"
SLOWER = (*PAIRS, "optim.lr=1e-4", "model.frozen_layers=0")
HEAD, ORDERS, AVERAGE = "model.head=pair", "model.both_orders=true", "trainer.average=0.99"
VARIANTS = {
    START: Variant((*LECTURE, BF16), None),
    BARE: Variant(PLAIN, START),
    "+ head: pair": Variant((*PLAIN, HEAD), BARE),
    "+ both orders": Variant((*PLAIN, HEAD, ORDERS), "+ head: pair"),
    "+ averaged weights": Variant((*PLAIN, HEAD, ORDERS, AVERAGE), "+ both orders"),
    RECIPE: Variant(PAIRS, "+ averaged weights"),
    "pairs, 3 layers frozen": Variant((*PAIRS, "model.frozen_layers=3"), RECIPE),
    "pairs, batches of 8": Variant((*PAIRS, "loader.batch_size=8"), RECIPE),
    "pairs, 5 epochs": Variant((*PAIRS, "trainer.max_epochs=5"), RECIPE),
    "pairs, rate 3e-4": Variant((*PAIRS, "optim.lr=3e-4"), RECIPE),
    "pairs, rate 1e-4, no layer frozen": Variant(SLOWER, RECIPE),
    "pairs, rate 1e-4, no layer frozen, 5 epochs": Variant((*SLOWER, "trainer.max_epochs=5"), RECIPE),
    "pairs, layer_decay 0.9": Variant((*PAIRS, "optim.layer_decay=0.9"), RECIPE),
    "pairs, label_smoothing 0.1": Variant((*PAIRS, "loss.label_smoothing=0.1"), RECIPE),
    "pairs, r_drop 1": Variant((*PAIRS, "loss.r_drop=1"), RECIPE),
    "pairs, dropout 0.2": Variant((*PAIRS, "model.dropout=0.2"), RECIPE),
}
# Where a variant is judged: on a fifth of the training rows, drawn by the seed so that no sentence is on both sides,
# which is for choosing; or on dev, which is for reporting and leaves the whole training split to train on.
JUDGED_ON = ("held_out", "dev")
HELD_OUT = (
    "data=files",
    "data.path=data/raw/mrpc",
    "data.files={train: train.tsv, validation: null, test: null}",
    "data.text=['#1 String','#2 String']",
    "data.label=Quality",
    "data.split=grouped",
    "data.validation_fraction=0.2",
    "data.test_fraction=0",
)
Run = dict[str, Any]


class Job(NamedTuple):
    """A training to make; `settings` and seed say all that its scores depend on but code, data and libraries."""

    variant: str
    judged_on: str
    seed: int

    @property
    def tokens(self) -> tuple[str, ...]:
        """Settings of the data, beside those of MRPC as it is."""
        return (*HELD_OUT, f"data.split_seed={self.seed}") if self.judged_on == "held_out" else ()

    @property
    def settings(self) -> list[str]:
        return [*VARIANTS[self.variant].settings, *self.tokens, f"seed={self.seed}"]

    def config_sha256(self) -> str:
        """Of the settings that scores follow from, as they are composed, wherever in conf/ they come from."""
        return _composed_sha256(tuple(self.settings))

    def project(self, work: Path) -> Path:
        return work / (f"held_out-{self.seed}" if self.tokens else "dev")


@cache
def _composed_sha256(settings: tuple[str, ...]) -> str:
    composed = compose([*settings])
    return fingerprint({section: composed[section] for section in (*WEIGHT_SECTIONS, "data", "tokenizer")})


def train(work: Path, job: Job) -> Run:
    """Make a run; the scores after each epoch."""
    out = work / f"{job.judged_on}-{job.seed}-{list(VARIANTS).index(job.variant)}"
    arguments = [*job.settings, "tracking=off", f"hydra.run.dir={out}"]
    stage(job.project(work), "train", *arguments, OMP_NUM_THREADS="1")
    with (out / TRAIN_RESULTS / "epochs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    remove(out)
    names = ("val_loss", "accuracy", "f1")
    epochs = [{name: round(float(row[name]), 6) for name in names} for row in rows]
    return {**job._asdict(), "settings": job.settings, "config_sha256": job.config_sha256(), "epochs": epochs}


def still_wanted(runs: list[Run], data_sha256: dict[str, str]) -> list[Run]:
    """Kept runs of variants as they are set today, also in conf/, on the same data."""
    return [
        run
        for run in runs
        if run["variant"] in VARIANTS
        and run["data_sha256"] == data_sha256
        and run["config_sha256"] == job_of(run).config_sha256()
    ]


def gain(runs: list[Run], variant: str, judged_on: str) -> str:
    """By how much mean accuracy is above that of the variant beside it, over seeds both have, with its interval."""

    def last(name: str | None) -> dict[int, float]:
        found = (run for run in runs if (run["variant"], run["judged_on"]) == (name, judged_on))
        return {run["seed"]: run["epochs"][-1]["accuracy"] for run in found}

    with_it, without = last(variant), last(VARIANTS[variant].beside)
    seeds = with_it.keys() & without.keys()
    if not seeds:
        return ABSENT
    differences = np.array([with_it[seed] - without[seed] for seed in seeds])
    if len(seeds) < FEWEST:
        return number(differences.mean(), 4)
    # Student's: a bootstrap of so few would reach no further than from the smallest to the largest.
    return interval((differences.mean(), *ttest_1samp(differences, 0).confidence_interval(CONFIDENCE)), 4)


def page(runs: list[Run], command: str, majority: float) -> str:
    """The table: pure.

    Args:
        majority: share of dev's rows with the most frequent label.
    """
    rows = []
    for variant in VARIANTS:
        cells: list[Any] = [variant]
        for judged_on, middle in zip(JUDGED_ON, (np.mean, np.median), strict=True):
            found = [run["epochs"][-1] for run in runs if (run["variant"], run["judged_on"]) == (variant, judged_on)]
            accuracies, f1s = ([epoch[name] for epoch in found] for name in ("accuracy", "f1"))
            scores = [number(middle(values), 4) if values else ABSENT for values in (accuracies, f1s)]
            span = f"{number(min(accuracies), 3)} to {number(max(accuracies), 3)}" if found else ABSENT
            cells += [len(found), *scores, span, gain(runs, variant, judged_on)]
        rows.append(cells)
    columns = [""]
    for judged_on, middle in (("held out", "mean"), ("dev", "median")):
        columns += [f"{judged_on}: runs", f"{middle} accuracy", f"{middle} F1", "accuracy from to", "gain"]
    intro = (
        "Scores after the last epoch. Held out: a fifth of the training rows, drawn anew for each seed, no sentence on "
        "both sides; for choosing. Dev: all training rows, other weights of the head, order and dropout for each seed; "
        f"for reporting; always answering 1 scores {number(majority, 3)} there. A row that begins with + has what the "
        "row above it has, and that. Gain: in accuracy, over the row above, or of a row below experiment=pairs over "
        f"that; the mean over seeds, of at least {FEWEST} with its 95 % interval by Student's t."
    )
    commits: dict[str, set[str]] = {}
    for run in runs:
        commits.setdefault(f"{run['cpu']}, {run['versions']}", set()).add(run["commit"])
    made_by = (f"{machine}, commits {'; '.join(sorted(commits[machine]))}" for machine in sorted(commits))
    title = "# What the settings of experiment=pairs bring: all-MiniLM-L6-v2 on MRPC"
    return "\n\n".join([title, intro, markdown(columns, rows), f"`{command}`: {'; '.join(made_by)}."]) + "\n"


def wanted(variants: list[str], judged_on: list[str], seeds: list[int]) -> list[Job]:
    """A seed at a time, so that an interrupted table has as many runs in one row as in another."""
    places = [(where, seed) for seed in dict.fromkeys(seeds) for where in judged_on]
    return [Job(variant, *place) for place in places for variant in variants]


def kept_runs(data_sha256: dict[str, str], forgotten: list[Job]) -> list[Run]:
    """What is in the results and may stay there."""
    runs = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    return [run for run in still_wanted(runs, data_sha256) if job_of(run) not in forgotten]


def job_of(run: Run) -> Job:
    return Job(run["variant"], run["judged_on"], run["seed"])


def make(work: Path, jobs: list[Job], runs: list[Run], made_by: dict[str, Any]) -> None:
    """Make runs, TOGETHER at a time, each added to `runs` and the results once it has ended."""
    one_at_a_time = Lock()

    def one(job: Job) -> None:
        run = made_by | train(work, job)
        with one_at_a_time:
            runs.append(run)
            write_json(RESULTS, runs)
            print(f"{run['variant']}, {run['judged_on']}, seed {run['seed']}: {run['epochs'][-1]}", flush=True)

    with ThreadPoolExecutor(TOGETHER) as pool:
        started = [pool.submit(one, job) for job in jobs]
        try:
            for future in started:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def provenance(data_sha256: dict[str, str]) -> dict[str, Any]:
    """What each run notes of the machine, the libraries and the code that made it."""
    machine = environment()
    commit, dirty = git_commit(ROOT)
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "transformers", "lightning"))
    return {
        "cpu": machine["cpu"],
        "compiled_kernels": machine["compiled_kernels"],
        "versions": versions,
        "commit": f"{commit}{', edited' if dirty else ''}",
        "data_sha256": data_sha256,
    }


def majority_share(data: Path) -> float:
    labels = pd.read_csv(data / "dev.tsv", sep="\t", quoting=csv.QUOTE_NONE)["Quality"]
    return float(labels.value_counts(normalize=True).max())


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the settings of experiment=pairs bring on MRPC.")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--judged-on", nargs="+", choices=JUDGED_ON, default=list(JUDGED_ON))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--data", type=Path, default=MRPC, help="folder with GLUE's MRPC")
    parser.add_argument("--anew", action="store_true", help="make these runs again, as after a change of src/")
    chosen = parser.parse_args()
    data = chosen.data.resolve()
    digests = mrpc_digests(data)
    made_by = provenance(digests)
    work = WORK / f"ablation-{fingerprint(sources(), digests, HELD_OUT)}"
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(WORK / "ablation.lock", timeout=0):
        asked = wanted(chosen.variants, chosen.judged_on, chosen.seeds)
        runs = kept_runs(digests, forgotten=asked if chosen.anew else [])
        done = [job_of(run) for run in runs]
        jobs = [job for job in asked if job not in done]
        for job in jobs:  # all of them now, lest an edit of src/ come between two trainings
            if not job.project(work).exists():
                with replacing(job.project(work)) as project:
                    make_project(project, data, *PAIRS, *job.tokens)
        make(work, jobs, runs, made_by)
        text = page(runs, shlex.join(["python", "bench/ablation.py", *sys.argv[1:]]), majority_share(data))
        write_text(RESULTS.with_suffix(".md"), text)
    print(f"\n{text}\nThis is {RESULTS.with_suffix('.md')}.")


if __name__ == "__main__":
    end_with_children()
    sys.exit(exit_code(main))
