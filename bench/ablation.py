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
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from machine import environment
from project import BENCH, MRPC, ROOT, WORK, fingerprint, make_project, mrpc_digests, sources, stage
from record import BF16, LECTURE, PAIRS

from tuneledger.errors import exit_code
from tuneledger.ledger.provenance import git_commit
from tuneledger.paths import TRAIN_RESULTS, remove, replacing, write_json, write_text
from tuneledger.show.tables import ABSENT, markdown, number

TOGETHER = 2
RESULTS = BENCH / "results" / "ablation.json"
# Beside rate, epochs and batches this differs from the lecture's in weight decay 0.01 and grouping by length.
PLAIN = (*PAIRS, "model.head=null", "model.both_orders=false", "trainer.average=null")
VARIANTS = {
    "the lecture's recipe": (*LECTURE, BF16),
    "1e-4 with warm-up, 5 epochs, batches of 16 of like length, weight decay": PLAIN,
    "+ head: pair": (*PLAIN, "model.head=pair"),
    "+ both orders": (*PLAIN, "model.head=pair", "model.both_orders=true"),
    "+ averaged weights = experiment=pairs": PAIRS,
    "pairs, 3 epochs": (*PAIRS, "trainer.max_epochs=3"),
    "pairs, rate 5e-5": (*PAIRS, "optim.lr=5e-5"),
    "pairs, rate 2e-4": (*PAIRS, "optim.lr=2e-4"),
    "pairs, layer_decay 0.9": (*PAIRS, "optim.layer_decay=0.9"),
    "pairs, label_smoothing 0.1": (*PAIRS, "loss.label_smoothing=0.1"),
    "pairs, r_drop 1": (*PAIRS, "loss.r_drop=1"),
    "pairs, dropout 0.2": (*PAIRS, "model.dropout=0.2"),
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
        return [*VARIANTS[self.variant], *self.tokens, f"seed={self.seed}"]

    def project(self, work: Path) -> Path:
        return work / (f"held_out-{self.seed}" if self.tokens else "dev")


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
    return {**job._asdict(), "settings": job.settings, "epochs": epochs}


def still_wanted(runs: list[Run], data_sha256: dict[str, str]) -> list[Run]:
    """Kept runs of variants as they are set today, on the same data."""
    return [
        run
        for run in runs
        if run["variant"] in VARIANTS
        and run["settings"] == Job(run["variant"], run["judged_on"], run["seed"]).settings
        and run["data_sha256"] == data_sha256
    ]


def page(runs: list[Run], command: str) -> str:
    """The table: pure."""
    rows = []
    for variant in VARIANTS:
        cells: list[Any] = [variant]
        for judged_on, middle in zip(JUDGED_ON, (np.mean, np.median), strict=True):
            found = [run["epochs"][-1] for run in runs if (run["variant"], run["judged_on"]) == (variant, judged_on)]
            accuracies, f1s = ([epoch[name] for epoch in found] for name in ("accuracy", "f1"))
            scores = [number(middle(values), 4) if values else ABSENT for values in (accuracies, f1s)]
            span = f"{number(min(accuracies), 3)} to {number(max(accuracies), 3)}" if found else ABSENT
            cells += [len(found), *scores, span]
        rows.append(cells)
    columns = [""]
    for judged_on, middle in (("held out", "mean"), ("dev", "median")):
        columns += [f"{judged_on}: runs", f"{middle} accuracy", f"{middle} F1", "accuracy from to"]
    intro = (
        "Scores after the last epoch. Held out: a fifth of the training rows, another one for each seed, no sentence "
        "on both sides; for choosing. Dev: all training rows, other weights of the head, order and dropout for each "
        "seed; for reporting. A row that begins with + has what the row above it has, and that."
    )
    made_by = sorted({f"{run['cpu']}, {run['versions']}, commit {run['commit']}" for run in runs})
    title = "# What the settings of experiment=pairs bring: all-MiniLM-L6-v2 on MRPC"
    return "\n\n".join([title, intro, markdown(columns, rows), f"`{command}`: {'; '.join(made_by)}."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the settings of experiment=pairs bring on MRPC.")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--judged-on", nargs="+", choices=JUDGED_ON, default=list(JUDGED_ON))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--data", type=Path, default=MRPC, help="folder with GLUE's MRPC")
    parser.add_argument("--anew", action="store_true", help="forget the runs there are, as after a change of src/")
    chosen = parser.parse_args()
    data = chosen.data.resolve()
    digests = mrpc_digests(data)
    machine = environment()
    commit, dirty = git_commit(ROOT)
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "transformers", "lightning"))
    made_by = {
        "cpu": machine["cpu"],
        "compiled_kernels": machine["compiled_kernels"],
        "versions": versions,
        "commit": f"{commit}{', edited' if dirty else ''}",
        "data_sha256": digests,
    }
    work = WORK / f"ablation-{fingerprint(sources(), digests, HELD_OUT)}"
    command = shlex.join(["python", "bench/ablation.py", *sys.argv[1:]])
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(WORK / "ablation.lock", timeout=0):
        kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() and not chosen.anew else []
        runs = still_wanted(kept, digests)
        done = {(run["variant"], run["judged_on"], run["seed"]) for run in runs}
        places = [(where, seed) for seed in dict.fromkeys(chosen.seeds) for where in chosen.judged_on]
        wanted = [Job(variant, *place) for place in places for variant in chosen.variants]
        jobs = [job for job in wanted if job not in done]
        for job in jobs:  # all of them now, lest an edit of src/ come between two trainings
            if not job.project(work).exists():
                with replacing(job.project(work)) as project:
                    make_project(project, data, *PAIRS, *job.tokens)

        one_at_a_time = Lock()

        def make(job: Job) -> None:
            run = made_by | train(work, job)
            with one_at_a_time:
                runs.append(run)
                write_json(RESULTS, runs)
                print(f"{run['variant']}, {run['judged_on']}, seed {run['seed']}: {run['epochs'][-1]}", flush=True)

        with ThreadPoolExecutor(TOGETHER) as pool:
            started = [pool.submit(make, job) for job in jobs]
            try:
                for future in started:
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)
    write_text(RESULTS.with_suffix(".md"), page(runs, command))
    print(f"\n{page(runs, command)}\nThis is {RESULTS.with_suffix('.md')}.")


if __name__ == "__main__":
    sys.exit(exit_code(main))
