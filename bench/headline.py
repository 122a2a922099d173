"""The side-by-side harness: `python bench/headline.py` measures all contestants and writes bench/results/.

Works in a private copy of the project below bench/work/, named after code, settings, data and libraries. Each
finished run is kept there, so that the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock
from machine import environment, measured, wait_until_idle
from record import BATCH_SIZE, CONTESTANTS, EPOCHS, RECIPE, labels_digest
from table import WARMUP, Run, page, step_figures

from tuneledger.conf import load_yaml
from tuneledger.errors import UserError, exit_code
from tuneledger.ledger.provenance import file_digests, git_commit
from tuneledger.paths import PARAMS, TOKENIZED, TRAIN_RESULTS, remove, replacing, write_json, write_text
from tuneledger.text.batches import TokenizedSplit, training_batches
from tuneledger.text.source import weight_digests

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
WORK = BENCH / "work"
ROWS = {"train.tsv": 3668, "dev.tsv": 408}
EPOCH_STEPS = -(-ROWS["train.tsv"] // BATCH_SIZE)
STOPPED = 128 + 15  # exit code of a run that ended after --steps
METRICS = {"trainer.py": Path("metrics.json"), "ours.py": TRAIN_RESULTS / "metrics.json"}


def schedule(contestants: list[str], seeds: list[int]) -> Iterator[tuple[str, int]]:
    """A B C D, D C B A, ...: a machine that drifts favours nobody."""
    for index, seed in enumerate(seeds):
        yield from ((name, seed) for name in contestants[:: -1 if index % 2 else 1])


def check_runs(runs: list[Run]) -> None:
    """Raise UserError if runs of a seed began with different weights, or one had other batches than it should."""
    for run in runs:
        name = f"{run['contestant']} seed {run['seed']}"
        if CONTESTANTS[run["contestant"]].closed and run["labels_sha256"] != run["order_labels_sha256"]:
            raise UserError(f"{name} trained on other batches than those of the order file: nothing can be compared")
        first = next(other for other in runs if other["seed"] == run["seed"])
        if run["weights_sha256"] != first["weights_sha256"]:
            raise UserError(f"{name} began with other weights than {first['contestant']}: nothing can be compared")


def fingerprint(data_sha256: dict[str, str]) -> str:
    """12 hex digits over all that a figure can depend on."""
    folders = [file_digests(ROOT / folder) for folder in ("src", "conf")]
    folders += [{file.name: file.read_text(encoding="utf-8") for file in BENCH.glob("*.py")}]
    code = [{name: digest for name, digest in folder.items() if not name.endswith(".pyc")} for folder in folders]
    facts = environment()
    everything = json.dumps([code, data_sha256, facts], sort_keys=True)
    return hashlib.sha256(everything.encode()).hexdigest()[:12]


def make_project(project: Path, data: Path) -> None:
    """Copy what a training needs of the project, put MRPC where conf/ expects it, and tokenize it for RECIPE."""
    for folder in ("src", "conf"):
        shutil.copytree(ROOT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("dvc.yaml", "dvc.lock"):
        shutil.copy2(ROOT / name, project / name)
    (project / "data" / "raw").mkdir(parents=True)
    (project / "data" / "raw" / "mrpc").symlink_to(data)  # no copy, so that no commit can hold it
    (project / PARAMS).write_text(_stage(project, "train", *RECIPE, "--cfg", "job", "--resolve"), encoding="utf-8")
    _stage(project, "prepare")
    _stage(project, "tokenize")


def _stage(project: Path, name: str, *arguments: str) -> str:
    """What a stage printed that ran in a copy of the project."""
    command = [sys.executable, "-m", f"tuneledger.stages.{name}", *arguments]
    done = subprocess.run(command, cwd=project, env=_environ(project), capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"stage {name} failed: {done.stderr.strip()}")
    return done.stdout


def _environ(project: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(project / "src")}


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
    taken = measured([sys.executable, str(BENCH / script), *options], project, log, _environ(project))
    if taken["exit_code"] != (STOPPED if steps else 0):
        raise UserError(f"{contestant} seed {seed} ended with exit code {taken['exit_code']}: see {log}")
    run = taken | json.loads((folder / "record.json").read_text(encoding="utf-8"))
    if not steps:
        written = (folder / METRICS[script]).stat().st_mtime_ns
        run |= {"loop_seconds": run["epochs"][-1]["seconds"], "metrics_seconds": (written - run["started"]) / 1e9}
    remove(folder)
    digests = {
        "order_sha256": hashlib.sha256(order.read_bytes()).hexdigest(),
        "order_labels_sha256": labels_digest(labels[:steps]),
    }
    command = shlex.join(["python", f"bench/{script}", *options])
    commit, dirty = git_commit(ROOT)
    of = {"contestant": contestant, "seed": seed, "command": command, "commit": commit, "dirty": dirty}
    return of | digests | run


def measure(work: Path, contestants: list[str], seeds: list[int], steps: int | None, anyway: bool) -> list[Run]:
    """All runs, made now where they are not there yet; UserError as soon as they cannot be compared."""
    suffix = f"-{steps}-steps" if steps else ""
    files = {run: work / "runs" / f"{run[0]}-{run[1]}{suffix}.json" for run in schedule(contestants, seeds)}
    if not all(file.exists() for file in files.values()):
        for contestant in contestants:  # thrown away: loads files into memory, compiles, creates MLflow's database
            one_run(work, contestant, 0, 1)
    runs = []
    for (contestant, seed), file in files.items():
        if not file.exists():
            if not anyway:
                wait_until_idle()
            print(f"{contestant} seed {seed} ...", end=" ", flush=True)
            run = one_run(work, contestant, seed, steps)
            write_json(file, run | step_figures(run["step_ends"]))
            print(f"{run['exit_seconds']:.0f} s", flush=True)
        runs.append(json.loads(file.read_text(encoding="utf-8")))
        check_runs(runs)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure tuneledger beside transformers.Trainer.")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--steps", type=int, help="short mode: end each training after so many; step times alone")
    parser.add_argument("--out", type=Path, help="folder for the tables, instead of results/, or work/short/ if short")
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/mrpc", help="folder with GLUE's MRPC")
    parser.add_argument("--anyway", action="store_true", help="also while other work runs: to try the harness out")
    chosen = parser.parse_args()
    if chosen.steps is not None and not WARMUP + 1 < chosen.steps < EPOCH_STEPS:
        raise UserError(f"--steps {chosen.steps}: give {WARMUP + 2} to {EPOCH_STEPS - 1}, within the first epoch")
    data = chosen.data.resolve()
    digests = {name: digest for name, digest in file_digests(data).items() if name in ROWS}
    if digests.keys() != ROWS.keys():
        raise UserError(f"{data} holds no {' and '.join(ROWS)}: give --data, the folder with GLUE's MRPC")
    work = WORK / fingerprint(digests)
    WORK.mkdir(exist_ok=True)
    with FileLock(WORK / "lock", timeout=0):
        if not (work / "project").exists():
            with replacing(work / "project") as project:
                make_project(project, data)
        tokens = work / "project" / TOKENIZED
        train, dev = (TokenizedSplit(tokens / f"{split}.arrow") for split in ("train", "validation"))
        if [len(train), len(dev)] != [*ROWS.values()]:
            raise UserError(f"{data} holds {len(train)} and {len(dev)} rows, not those of GLUE's MRPC: {ROWS}")
        runs = measure(work, chosen.contestants, chosen.seeds, chosen.steps, chosen.anyway)
    positive = float(dev.labels.mean())
    always = [{"accuracy": 1 - positive, "f1": 0.0}, {"accuracy": positive, "f1": 2 * positive / (1 + positive)}]
    facts = {
        **environment(),
        "commits": sorted({f"{run['commit']}{', edited' if run['dirty'] else ''}" for run in runs}),
        "command": shlex.join(["python", "bench/headline.py", *sys.argv[1:]]),
        "settings": {name: [*RECIPE, *one.settings] for name, one in CONTESTANTS.items() if one.settings},
        "checkpoint_sha256": weight_digests(load_yaml(work / "project" / PARAMS)["model"]["path"]),
        "data_sha256": digests,
        "rows": ROWS,
        "always_one_label": [{name: round(score, 6) for name, score in one.items()} for one in always],
    }
    out = chosen.out or (WORK / "short" if chosen.steps else BENCH / "results")
    without_steps = [{name: value for name, value in run.items() if name != "step_ends"} for run in runs]
    write_json(out / "headline.json", facts | {"runs": without_steps})
    write_text(out / "headline.md", page(runs, facts))
    print(f"\n{page(runs, facts)}\nThis is {out / 'headline.md'}.")


if __name__ == "__main__":
    sys.exit(exit_code(main))
