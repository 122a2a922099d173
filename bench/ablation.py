"""What each setting of experiment=pairs brings on MRPC: `python bench/ablation.py` writes bench/results/ablation.*.

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
from itertools import count
from pathlib import Path
from typing import Any

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
PLAIN = (*PAIRS, "model.head=null", "model.both_orders=false", "trainer.average=null")
VARIANTS = {
    "the lecture's recipe": (*LECTURE, BF16),
    "rate 1e-4 with warm-up, 5 epochs, batch 16": PLAIN,
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
# Where a variant is judged: a fifth of the training rows, drawn by the seed so that no sentence is on both sides, by
# which the recipe was chosen; or dev, for which the whole training split is trained on.
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
JUDGED_ON = {"held_out": "a fifth of train held out", "dev": "dev"}
Score = dict[str, Any]


def project_for(work: Path, data: Path, judged_on: str, seed: int) -> tuple[Path, tuple[str, ...]]:
    """A copy of the project with the tokens to train on, and the settings by which they were made."""
    settings = (*HELD_OUT, f"data.split_seed={seed}") if judged_on == "held_out" else ()
    project = work / (f"held_out-{seed}" if settings else "dev")
    with FileLock(f"{project}.lock"):
        if not project.exists():
            with replacing(project) as partial:
                make_project(partial, data, *PAIRS, *settings)
    return project, settings


def one_run(work: Path, data: Path, variant: str, judged_on: str, seed: int, number: int) -> Score:
    """Train a variant once; the scores after each epoch."""
    project, settings = project_for(work, data, judged_on, seed)
    out = work / f"run-{number}"
    arguments = [*VARIANTS[variant], *settings, f"seed={seed}", "tracking=off", f"hydra.run.dir={out}"]
    stage(project, "train", *arguments, OMP_NUM_THREADS="1")
    with (out / TRAIN_RESULTS / "epochs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    remove(out)
    names = ("val_loss", "accuracy", "f1")
    epochs = [{name: round(float(row[name]), 6) for name in names} for row in rows]
    return {"variant": variant, "judged_on": judged_on, "seed": seed, "settings": VARIANTS[variant], "epochs": epochs}


def page(runs: list[Score], facts: dict[str, Any]) -> str:
    """The table: pure."""
    rows = []
    for variant in VARIANTS:
        cells: list[Any] = [variant]
        for judged_on in JUDGED_ON:
            found = [run["epochs"][-1] for run in runs if (run["variant"], run["judged_on"]) == (variant, judged_on)]
            accuracies, f1s = ([epoch[name] for epoch in found] for name in ("accuracy", "f1"))
            cells += [len(found)]
            if not found:
                cells += [ABSENT] * 3
                continue
            middle = np.mean if judged_on == "held_out" else np.median
            cells += [number(middle(values), 4) for values in (accuracies, f1s)]
            cells += [f"{number(min(accuracies), 3)} to {number(max(accuracies), 3)}"]
        rows.append(cells)
    columns = [""]
    for judged_on, middle in (("held out", "mean"), ("dev", "median")):
        columns += [f"{judged_on}: runs", f"{middle} accuracy", f"{middle} F1", "accuracy from to"]
    intro = (
        "Scores after the last epoch. Held out: a fifth of the training rows, another one for each seed, no sentence "
        "on both sides; by these the recipe was chosen. Dev: all training rows, other weights of the head, order and "
        "dropout for each seed. A row that begins with + has what the row above it has, and that."
    )
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    machines = " and ".join(sorted({run["cpu"] for run in runs}))
    commits = " and ".join(sorted({run["commit"] for run in runs}))
    title = "# What each setting of experiment=pairs brings: all-MiniLM-L6-v2 on MRPC"
    made = f"{machines}; {versions}. Commit {commits}; `{facts['command']}`."
    parts = [title, intro, markdown(columns, rows), made]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what each setting of experiment=pairs brings on MRPC.")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--judged-on", nargs="+", choices=JUDGED_ON, default=list(JUDGED_ON))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--data", type=Path, default=MRPC, help="folder with GLUE's MRPC")
    chosen = parser.parse_args()
    data = chosen.data.resolve()
    digests = mrpc_digests(data)
    machine = environment()
    code = fingerprint(sources(), digests, machine["versions"])
    work = WORK / f"ablation-{code}"
    work.mkdir(parents=True, exist_ok=True)
    commit, dirty = git_commit(ROOT)
    made_by = {"cpu": machine["cpu"], "commit": f"{commit}{', edited' if dirty else ''}"}
    command = shlex.join(["python", "bench/ablation.py", *sys.argv[1:]])
    facts = {"fingerprint": code, "command": command, "versions": machine["versions"], "data_sha256": digests}
    with FileLock(WORK / "ablation.lock", timeout=0), ThreadPoolExecutor(TOGETHER) as pool:
        kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"fingerprint": None}
        runs = kept["runs"] if kept["fingerprint"] == code else []
        runs = [run for run in runs if tuple(run["settings"]) == VARIANTS.get(run["variant"])]
        done = {(run["variant"], run["judged_on"], run["seed"]) for run in runs}
        wanted = [(v, where, seed) for seed in chosen.seeds for where in chosen.judged_on for v in chosen.variants]
        numbers = count()
        started = [pool.submit(one_run, work, data, *run, next(numbers)) for run in wanted if run not in done]
        try:
            for future in started:
                run = made_by | future.result()
                runs.append(run)
                last = run["epochs"][-1]
                print(f"{run['variant']}, {run['judged_on']}, seed {run['seed']}: {last}", flush=True)
                write_json(RESULTS, facts | {"runs": runs})
                write_text(RESULTS.with_suffix(".md"), page(runs, facts))
        finally:
            pool.shutdown(cancel_futures=True)
    print(f"\n{page(runs, facts)}\nThis is {RESULTS.with_suffix('.md')}.")


if __name__ == "__main__":
    sys.exit(exit_code(main))
