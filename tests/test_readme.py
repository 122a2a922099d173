"""The README promises nothing that is not there: files, folders, options and images it names exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tuneledger.show.tables import duration

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
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


def test_the_default_runs_figures_are_the_committed_ones():
    scores = json.loads((ROOT / "results/eval/metrics.json").read_text())
    seconds = json.loads((ROOT / "results/train/cost.json").read_text())["fit_seconds"]
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


def test_no_placeholder_is_left():
    assert "@@" not in README
    assert "TODO" not in README


@pytest.mark.parametrize("option", sorted(set(re.findall(r"-S (\w+=\w+)(?=\s)", README))))
def test_group_options_exist(option: str):
    group, _, name = option.partition("=")
    assert (ROOT / "conf" / group / f"{name}.yaml").is_file()
