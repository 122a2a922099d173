"""How `prepare` and `tokenize` grow with the data, beside datasets.map: `python bench/rows.py` writes bench/results/.

Every measurement is a process of its own, interleaved, alone on the machine.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from machine import end_with_children, environment, wait_until_idle
from project import BENCH, ROOT, WORK
from row_tasks import SECTION, TASKS

from tuneledger.errors import UserError, exit_code
from tuneledger.ledger.provenance import git_commit
from tuneledger.paths import remove, write_json, write_text
from tuneledger.show.tables import markdown, number
from tuneledger.stages import prepare as stage

TWINS = ROOT / "data" / "raw" / "twins"
SIZES = (10_000, 100_000, 1_000_000)
VALIDATION = 1000  # rows, whatever the size


def generate(folder: Path, rows: int) -> None:
    """Write train.tsv and validation.tsv: sentences of the embedded data in new pairs, each made unique by a number."""
    table = pd.read_csv(TWINS / "train.tsv", sep="\t", quoting=3, dtype=str)
    sentences = np.concatenate([table["sentence1"], table["sentence2"]])
    random = np.random.default_rng(0)
    for name, count in {"train.tsv": rows, "validation.tsv": VALIDATION}.items():
        with (folder / name).open("w", encoding="utf-8") as file:
            file.write("sentence1\tsentence2\tlabel\n")
            for row in range(count):
                first, second = random.choice(sentences, 2)
                file.write(f"{first} {row}\t{second} {row}\t{row % 2}\n")


def measure(sizes: list[int], repeats: int, anyway: bool) -> list[dict[str, Any]]:
    """All runs, tasks in turn and back; the tokens of a size have to be the same whoever makes them."""
    work = WORK / "rows"
    remove(work)
    work.mkdir(parents=True)
    runs = []
    for size in sizes:
        folder = work / str(size)
        folder.mkdir()
        generate(folder, size)
        splits, _, _ = stage.prepare(path=str(folder), **SECTION)
        stage.write(splits, folder)
        for repeat in range(repeats):
            for task in list(TASKS)[:: -1 if repeat % 2 else 1]:
                if not anyway:
                    wait_until_idle()
                command = [sys.executable, str(BENCH / "row_tasks.py"), task, str(folder)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise UserError(f"{task} of {size:,} rows failed: {done.stderr.strip()}")
                runs.append({"task": task, "rows": size, **json.loads(done.stdout.splitlines()[-1])})
                print(f"{task}, {size:,} rows: {runs[-1]['seconds']:.2f} s", flush=True)
        tokens = {run["tokens_sha256"] for run in runs if run["rows"] == size and run["tokens_sha256"]}
        if len(tokens) > 1:
            raise UserError(f"of {size:,} rows one makes other tokens than the other")
    return runs


def page(runs: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    table = []
    for task in TASKS:
        for size in sorted({run["rows"] for run in runs}):
            mine = [run for run in runs if (run["task"], run["rows"]) == (task, size)]
            seconds = sorted(run["seconds"] for run in mine)
            middle = float(np.median(seconds))
            peaks = [number(max(run[peak] for run in mine), 2) for peak in ("own_gib", "peak_gib")]
            spread = f"{number(seconds[0], 2)} to {number(seconds[-1], 2)}"
            table.append([task, f"{size:,}", number(middle, 2), spread, f"{size / middle:,.0f}", *peaks])
    columns = ["", "rows", "median, s", "of all runs, s", "rows/s", "most of its own memory, GiB", "most resident, GiB"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    clock = "Seconds are those of the work, once Python has started and libraries are imported."
    return "\n\n".join(
        [
            "# Rows of sentence pairs, about 45 tokens each",
            f"{facts['cpu']}, {facts['cores']} cores; Python {facts['python']}, {versions}.",
            f"Commit {facts['commit']}; `{facts['command']}`.",
            f"{clock} Resident are pages of mapped files too, which the system takes back when it needs them.",
            markdown(columns, table, text_columns=1),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=BENCH / "results")
    parser.add_argument("--anyway", action="store_true", help="also while other work runs: to try the harness out")
    chosen = parser.parse_args()
    runs = measure(chosen.sizes, chosen.repeats, chosen.anyway)
    commit, edited = git_commit(ROOT)
    command = shlex.join(["python", "bench/rows.py", *sys.argv[1:]])
    facts = {**environment(), "commit": f"{commit}{', edited' if edited else ''}", "command": command}
    write_json(chosen.out / "rows.json", facts | {"runs": runs})
    write_text(chosen.out / "rows.md", page(runs, facts))
    print(f"\n{page(runs, facts)}\nThis is {chosen.out / 'rows.md'}.")


if __name__ == "__main__":
    end_with_children()
    sys.exit(exit_code(main))
