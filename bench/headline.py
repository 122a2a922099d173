"""The side-by-side harness: `python bench/headline.py closed` and `... open` measure and write bench/results/.

Works in a private copy of the project below bench/work/, named after code, settings, data and libraries. Each
finished run is kept there, so that the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from contestants import BATCH_SIZE, CONTESTANTS, DIVISIONS, EPOCHS, LECTURE, SAME
from filelock import FileLock
from machine import end_with_children, environment, measured, wait_until_idle
from project import BENCH, MRPC, ROOT, ROWS, WORK, environ_of, fingerprint, make_project, mrpc_digests, sources
from record import labels_digest
from table import WARMUP, Run, page, step_figures

from tuneledger.conf import load_yaml
from tuneledger.errors import UserError, exit_code
from tuneledger.ledger.provenance import git_commit
from tuneledger.paths import PARAMS, TOKENIZED, TRAIN_RESULTS, remove, replacing, write_json, write_text
from tuneledger.text.batches import TokenizedSplit, training_batches
from tuneledger.text.source import weight_digests

SCRIPTS = ("contestants.py", "ours.py", "peer.py", "record.py")  # all that a run runs, beside the project
MEASURING = ("headline.py", "machine.py", "project.py")  # what prepares runs and takes their times
EPOCH_STEPS = -(-ROWS["train.tsv"] // BATCH_SIZE)
STOPPED = 128 + 15  # exit code of a run that ended after --steps
METRICS = {"peer.py": Path("metrics.json"), "ours.py": TRAIN_RESULTS / "metrics.json"}


def schedule(contestants: list[str], seeds: list[int]) -> Iterator[tuple[str, int]]:
    """A B C D, D C B A, ...: a machine that drifts favours nobody."""
    for index, seed in enumerate(seeds):
        yield from ((name, seed) for name in contestants[:: -1 if index % 2 else 1])


def check_runs(runs: list[Run]) -> None:
    """Raise UserError if runs of a seed began with different weights, or one had other batches than it should.

    Those of an open contestant, whose head is another, are beyond comparison.
    """
    closed = [run for run in runs if not CONTESTANTS[run["contestant"]].open]
    for run in closed:
        name = f"{run['contestant']} seed {run['seed']}"
        if CONTESTANTS[run["contestant"]].batches == SAME and run["labels_sha256"] != run["order_labels_sha256"]:
            raise UserError(f"{name} trained on other batches than those of the order file: nothing can be compared")
        first = next(other for other in closed if other["seed"] == run["seed"])
        if run["weights_sha256"] != first["weights_sha256"]:
            raise UserError(f"{name} began with other weights than {first['contestant']}: nothing can be compared")


def make_copy(project: Path, data: Path) -> None:
    """The project, what runs in it and of which commit that is, none of which an edit can change from here on."""
    make_project(project, data, *LECTURE)
    (project / "bench").mkdir()
    for name in SCRIPTS:
        shutil.copy2(BENCH / name, project / "bench" / name)
    commit, dirty = git_commit(ROOT)
    write_json(project / "commit.json", {"commit": commit, "dirty": dirty})


def write_order(file: Path, train: TokenizedSplit, seed: int) -> list[np.ndarray]:
    """Write the rows of each epoch in the order of our own training; the labels of each batch."""
    rest = {"group_by_length": False, "seed": seed}
    epochs = [training_batches(train.lengths, BATCH_SIZE, epoch=epoch, **rest) for epoch in range(EPOCHS)]
    write_text(file, json.dumps([np.concatenate(batches).tolist() for batches in epochs]))
    return [train.labels[rows] for batches in epochs for rows in batches]


def one_run(work: Path, contestant: str, seed: int, steps: int | None) -> Run:
    """Make a run in a process of its own, and what it, the clock and the machine say of it.

    Raises:
        UserError: it did not end as it should.
    """
    script, folder, project = CONTESTANTS[contestant].script, work / "run", work / "project"
    order, log = work / f"order-{seed}.json", work / f"{contestant}-{seed}.log"
    labels = write_order(order, TokenizedSplit(project / TOKENIZED / "train.arrow"), seed)
    for left in (folder, project / "checkpoints"):  # of a run that was stopped, from which the next would go on
        remove(left)
    folder.mkdir()
    options = ["--contestant", contestant, "--seed", str(seed), "--folder", "../run", "--order", f"../{order.name}"]
    options += ["--steps", str(steps)] if steps else []
    taken = measured([sys.executable, f"bench/{script}", *options], project, log, environ_of(project))
    if taken["exit_code"] != (STOPPED if steps else 0):
        raise UserError(f"{contestant} seed {seed} ended with exit code {taken['exit_code']}: see {log}")
    run = taken | json.loads((folder / "record.json").read_text(encoding="utf-8"))
    if not steps:
        written = (folder / METRICS[script]).stat().st_mtime_ns
        start = (run["began"] - run["started"]) / 1e9
        run["epochs"] = [epoch | {"since_start": start + epoch["seconds"]} for epoch in run["epochs"]]
        run |= {"loop_seconds": run["epochs"][-1]["seconds"], "metrics_seconds": (written - run["started"]) / 1e9}
    remove(folder)
    digests = {
        "order_sha256": hashlib.sha256(order.read_bytes()).hexdigest(),
        "order_labels_sha256": labels_digest(labels[:steps]),
    }
    command = shlex.join(["python", f"bench/{script}", *options])
    of = {"contestant": contestant, "seed": seed, "command": command}
    return of | json.loads((project / "commit.json").read_text(encoding="utf-8")) | digests | run


def measure(work: Path, contestants: list[str], seeds: list[int], steps: int | None, anyway: bool) -> list[Run]:
    """All runs, made now where they are not there yet; UserError as soon as they cannot be compared."""
    suffix = f"-{steps}-steps" if steps else ""
    files = {run: work / "runs" / f"{run[0]}-{run[1]}{suffix}.json" for run in schedule(contestants, seeds)}
    if not all(file.exists() for file in files.values()):
        for contestant in contestants:  # thrown away: loads files into memory, creates MLflow's database
            one_run(work, contestant, 0, 1)
    runs = []
    for (contestant, seed), file in files.items():
        if not file.exists():
            if not anyway:
                wait_until_idle()
            print(f"{contestant} seed {seed} ...", end=" ", flush=True)
            run = one_run(work, contestant, seed, steps)
            write_json(file, run)
            print(f"{run['exit_seconds']:.0f} s", flush=True)
        run = json.loads(file.read_text(encoding="utf-8"))
        runs.append(run | step_figures(run["step_ends"]))
        check_runs(runs)
    return runs


def check_rows(project: Path, data: Path) -> None:
    """Raise UserError unless the data are GLUE's."""
    rows = [len(TokenizedSplit(project / TOKENIZED / f"{split}.arrow")) for split in ("train", "validation")]
    if rows != [*ROWS.values()]:
        raise UserError(f"{data} holds {rows[0]} and {rows[1]} rows, not those of GLUE's MRPC: {ROWS}")


def describe(project: Path, division: str, runs: list[Run], data_sha256: dict[str, str]) -> dict[str, Any]:
    """What a table's JSON records beside the runs."""
    positive = float(TokenizedSplit(project / TOKENIZED / "validation.arrow").labels.mean())
    always = [{"accuracy": 1 - positive, "f1": 0.0}, {"accuracy": positive, "f1": 2 * positive / (1 + positive)}]
    return {
        **environment(),
        "division": division,
        "commits": sorted({f"{run['commit']}{', edited' if run['dirty'] else ''}" for run in runs}),
        "command": shlex.join(["python", "bench/headline.py", *sys.argv[1:]]),
        "settings": {name: one.settings for name, one in CONTESTANTS.items() if one.settings},
        "checkpoint_sha256": weight_digests(load_yaml(project / PARAMS)["model"]["path"]),
        "data_sha256": data_sha256,
        "rows": ROWS,
        "always_one_label": [{name: round(score, 6) for name, score in one.items()} for one in always],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure tuneledger beside transformers.Trainer.")
    parser.add_argument("division", choices=DIVISIONS, help="the lecture's recipe made faster; or any recipe")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, help="of the division: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--steps", type=int, help="closed only: end each training after so many; step times alone")
    parser.add_argument("--out", type=Path, help="folder for the tables, instead of results/, or work/short/ if short")
    parser.add_argument("--data", type=Path, default=MRPC, help="folder with GLUE's MRPC")
    parser.add_argument("--anyway", action="store_true", help="also while other work runs: to try the harness out")
    chosen = parser.parse_args()
    if chosen.steps is not None and not WARMUP + 1 < chosen.steps < EPOCH_STEPS:
        raise UserError(f"--steps {chosen.steps}: give {WARMUP + 2} to {EPOCH_STEPS - 1}, within the first epoch")
    if chosen.steps and chosen.division == "open":
        raise UserError("--steps compares steps, of which the open division has different ones: leave it out")
    contestants = chosen.contestants or DIVISIONS[chosen.division]
    if others := [name for name in contestants if name not in DIVISIONS[chosen.division]]:
        known = ", ".join(DIVISIONS[chosen.division])
        raise UserError(f"--contestants {' '.join(others)}: not in this division, give {known}")
    data = chosen.data.resolve()
    digests = mrpc_digests(data)
    scripts = {name: (BENCH / name).read_text(encoding="utf-8") for name in (*SCRIPTS, *MEASURING)}
    work = WORK / fingerprint(sources(), scripts, digests, environment())
    WORK.mkdir(exist_ok=True)
    with FileLock(WORK / "lock", timeout=0):
        if not (work / "project").exists():
            with replacing(work / "project") as project:
                make_copy(project, data)
        check_rows(work / "project", data)
        runs = measure(work, contestants, chosen.seeds, chosen.steps, chosen.anyway)
    facts = describe(work / "project", chosen.division, runs, digests)
    out = chosen.out or (WORK / "short" if chosen.steps else BENCH / "results")
    without_steps = [{name: value for name, value in run.items() if name != "step_ends"} for run in runs]
    text = page(runs, facts)
    write_json(out / f"{chosen.division}.json", facts | {"runs": without_steps})
    write_text(out / f"{chosen.division}.md", text)
    print(f"\n{text}\nThis is {out / chosen.division}.md.")


if __name__ == "__main__":
    end_with_children()
    sys.exit(exit_code(main))
