"""The README promises nothing that is not there: files, folders, options and images it names exist."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from tuneledger.show.tables import duration

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FLOWING = " ".join(README.split())
MADE = ("mlflow.db", "mlruns/", "multirun/", "data/raw/files/", "results/train/run.json")


def named_paths() -> list[str]:
    named = re.findall(r"`([\w./*-]+/[\w./*-]*|[\w-]+\.(?:yaml|md|txt|json|lock))`", README)
    pages = {path for path in named if path.startswith("reports/") and path.endswith(".html")}
    return sorted({path for path in named if path not in MADE and not path.startswith(("train.", ".../"))} - pages)


@pytest.mark.parametrize("path", named_paths())
def test_named_paths_exist(path: str):
    places = [ROOT, ROOT / "src" / "tuneledger"]
    assert any(list(place.glob(path.rstrip("/"))) for place in places), path


def test_paths_were_found_at_all():
    assert {"conf/optim/adamw.yaml", "src/tuneledger/stages/"} <= set(named_paths())


@pytest.mark.parametrize("image", re.findall(r"!\[[^]]*\]\(([^)]+)\)", README))
def test_images_exist(image: str):
    assert (ROOT / image).is_file()


def committed(path: str) -> dict:
    """As git has it: `make repro` writes other seconds into the working tree."""
    return json.loads(subprocess.run(["git", "show", f":{path}"], cwd=ROOT, capture_output=True, check=True).stdout)


def test_the_default_runs_figures_are_the_committed_ones():
    scores, seconds = committed("results/eval/metrics.json"), committed("results/train/cost.json")["fit_seconds"]
    accuracy, f1 = (
        f"{scores[name]:.3f} [{scores[f'{name}_low']:.3f}, {scores[f'{name}_high']:.3f}]" for name in ("accuracy", "f1")
    )
    (row,) = (line for line in README.splitlines() if line.startswith("| default: "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:] == [
        f"{scores['split']}, {scores['rows']} pairs",
        accuracy,
        f"{scores['majority_baseline']:.3f}",
        f1,
        duration(seconds),
    ]


def medians(division: str, contestant: str, *figures: Callable[[dict], float]) -> list[float]:
    runs = json.loads((ROOT / f"bench/results/{division}.json").read_text())["runs"]
    return [median(figure(run) for run in runs if run["contestant"] == contestant) for figure in figures]


def test_the_open_divisions_figures_are_the_committed_ones():
    scores = [lambda run, name=name: run["epochs"][-1][name] for name in ("accuracy", "f1")]
    seconds, accuracy, f1 = medians("open", "as_written", lambda run: run["metrics_seconds"], *scores)
    assert f"ends after {seconds:.0f} s with accuracy {accuracy:.3f} and F1 {f1:.3f}" in FLOWING

    def first(run: dict) -> float:
        return min(epoch["since_start"] for epoch in run["epochs"] if epoch["f1"] >= f1)

    figures = medians("open", "open", first, lambda run: run["metrics_seconds"], *scores)
    passed, seconds, accuracy, f1 = figures
    assert f"after {passed:.0f} s and ends after {seconds:.0f} s with {accuracy:.3f} and {f1:.3f}" in FLOWING


def test_the_closed_divisions_figures_are_the_committed_ones():
    steps, seconds = zip(
        *(
            medians("closed", name, lambda run: run["ms_per_step"], lambda run: run["metrics_seconds"])
            for name in ("ours", "as_written", "tuned")
        ),
        strict=True,
    )
    assert "a step takes {:.0f} ms where they take {:.0f} and {:.0f}".format(*steps) in FLOWING
    assert "to the last scores, {:,.0f} s where they take {:,.0f} and {:,.0f}".format(*seconds) in FLOWING


def test_no_placeholder_is_left():
    assert "@@" not in README
    assert "TODO" not in README


@pytest.mark.parametrize("option", sorted(set(re.findall(r"-S (\w+=\w+)(?=\s)", README))))
def test_group_options_exist(option: str):
    group, _, name = option.partition("=")
    assert (ROOT / "conf" / group / f"{name}.yaml").is_file()
