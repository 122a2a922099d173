"""One source of configuration: what conf/, `dvc repro`, `dvc exp run -S` and --multirun promise each other."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest
import scratch
from omegaconf import OmegaConf

ADAMW = "conf/optim/adamw.yaml"


@pytest.fixture(autouse=True)
def clean(project: Path):
    """Each test starts from the commit and its outputs."""
    scratch.git(project, "checkout", "--quiet", ".")
    scratch.git(project, "clean", "--quiet", "--force", "-d", "conf")
    scratch.run(project, "dvc", "checkout")


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


def learning_rate(project: Path) -> float:
    return OmegaConf.load(project / "params.yaml").optim.lr


def trained_at(project: Path) -> float:
    """The peak learning rate that training really used: it has no other way into steps.csv."""
    with (project / "results/train/steps.csv").open() as file:
        return max(float(row["lr"]) for row in csv.DictReader(file))


def replace(project: Path, file: str, old: str, new: str) -> None:
    text = (project / file).read_text()
    assert text.count(old) == 1
    (project / file).write_text(text.replace(old, new))


def test_an_edit_of_conf_rebuilds_what_is_affected_and_undoing_it_restores(project: Path):
    before = (project / "results/train/epochs.csv").read_bytes()
    replace(project, "conf/experiment/smoke.yaml", "lr: 1e-3", "lr: 5e-4  # slower")
    output = scratch.run(project, "dvc", "repro").stdout
    assert ran(output) == ["config", "train", "evaluate", "report"]
    assert "params.yaml: optim.lr = 0.0005 (was 0.001)" in output
    assert learning_rate(project) == pytest.approx(5e-4)
    assert trained_at(project) == pytest.approx(5e-4, rel=1e-6)
    assert (project / "results/train/epochs.csv").read_bytes() != before

    scratch.git(project, "checkout", "--quiet", "conf")
    output = scratch.run(project, "dvc", "repro").stdout
    assert "train" not in ran(output)
    assert "Stage 'train' is cached" in output
    assert (project / "results/train/epochs.csv").read_bytes() == before


def test_a_comment_in_conf_trains_nothing(project: Path):
    with (project / ADAMW).open("a") as file:
        file.write("# a remark\n")
    assert ran(scratch.run(project, "dvc", "repro").stdout) == ["config"]


def test_a_wrong_data_path_is_refused_before_anything_is_written(project: Path):
    before = (project / "params.yaml").read_bytes()
    replace(project, "conf/data/twins.yaml", "path: data/raw/twins", "path: data/raw/twin")
    done = scratch.run(project, "dvc", "repro", check=False)
    assert done.returncode != 0
    assert "error: data.path = data/raw/twin: no such file or folder" in done.stdout + done.stderr
    assert (project / "params.yaml").read_bytes() == before
    scratch.git(project, "checkout", "--quiet", "conf")
    assert ran(scratch.run(project, "dvc", "repro").stdout) == []


def test_other_data_take_one_repro_and_settle_with_the_second(project: Path):
    (project / "data/raw/other").mkdir()
    for split in ("train", "validation", "test"):
        text = (project / f"data/raw/twins/{split}.tsv").read_text()
        (project / f"data/raw/other/{split}.tsv").write_text(text.replace("the", "a"))
    replace(project, "conf/data/twins.yaml", "path: data/raw/twins", "path: data/raw/other")
    assert ran(scratch.run(project, "dvc", "repro", "tokenize").stdout) == ["config", "prepare", "tokenize"]
    sources = json.loads((project / "results/prepare/audit.json").read_text())["sources"]
    assert sources[0]["file"] == "data/raw/other/train.tsv"
    # DVC had resolved the old path before config ran, and now sees the new one: same result, nothing behind it runs.
    assert ran(scratch.run(project, "dvc", "repro", "tokenize").stdout) == ["prepare"]
    assert ran(scratch.run(project, "dvc", "repro", "tokenize").stdout) == []


def test_a_new_price_runs_the_report_only(project: Path):
    replace(project, "conf/cost/aws_us_east_1.yaml", "usd_per_hour: null", "usd_per_hour: 0.36")
    assert ran(scratch.run(project, "dvc", "repro").stdout) == ["config", "report"]
    cost = json.loads((project / "reports/cost.json").read_text())
    seconds = cost["fit_seconds"] + cost["evaluate_seconds"]
    assert cost["usd"] == pytest.approx(0.0001 * seconds, abs=1e-6)


def test_exp_run_trains_on_what_it_is_told_and_repro_keeps_it(project: Path):
    output = scratch.run(project, "dvc", "exp", "run", "-S", "optim.lr=2e-4").stdout
    assert "override kept: optim.lr = 0.0002 (conf/: 0.001)" in output
    assert ran(output) == ["config", "train", "evaluate", "report"]
    assert learning_rate(project) == pytest.approx(2e-4)
    assert trained_at(project) == pytest.approx(2e-4, rel=1e-6)
    again = scratch.run(project, "dvc", "repro").stdout
    assert ran(again) == []
    check = scratch.stage(project, "config", "--check", check=False)
    assert check.returncode == 1
    assert "optim.lr: params.yaml has 0.0002, conf/ composes to 0.001" in check.stdout


def test_a_queued_experiment_runs_its_own_copy_of_code_and_settings(project: Path):
    scratch.run(project, "dvc", "exp", "run", "--queue", "--name", "queued", "-S", "optim.lr=3e-4", "train")
    # Edited after queueing: the queued run must neither see nor need it.
    (project / "src/tuneledger/stages/train.py").write_text("raise SystemExit('the wrong code')\n")
    scratch.run(project, "dvc", "exp", "run", "--run-all")
    table = csv.DictReader(io.StringIO(scratch.run(project, "dvc", "exp", "show", "--csv").stdout))
    rows = {row["Experiment"] or "workspace": row for row in table}
    (rate,) = (column for column in table.fieldnames if column.endswith("optim.lr"))
    (loss,) = (column for column in table.fieldnames if column.endswith("val_loss"))
    assert float(rows["queued"][rate]) == pytest.approx(3e-4)
    assert rows["queued"][loss] != rows["workspace"][loss]


def test_a_new_file_in_conf_that_git_does_not_know_stops_a_queued_experiment(project: Path):
    (project / "conf/optim/other.yaml").write_text((project / ADAMW).read_text())
    done = scratch.run(project, "dvc", "exp", "run", "--temp", "-S", "optim.lr=6e-4", check=False)
    assert done.returncode != 0
    assert "was not composed from this conf/" in done.stdout + done.stderr
    assert "git add conf" in done.stdout + done.stderr


def test_a_hand_edit_of_params_is_reported_and_used(project: Path):
    replace(project, "params.yaml", "lr: 0.001", "lr: 0.0007")
    output = scratch.run(project, "dvc", "repro", "train").stdout
    # config has not run: none of its dependencies changed; --check and the training entry still tell.
    assert "train" in ran(output)
    assert trained_at(project) == pytest.approx(7e-4, rel=1e-6)
    assert scratch.stage(project, "config", "--check", check=False).returncode == 1


def test_a_stage_in_the_wrong_checkout_refuses(project: Path, tmp_path: Path):
    done = scratch.stage(project, "config", check=False, DVC_STAGE="config")
    assert done.returncode == 0
    source = str(project / "src")
    elsewhere = scratch.run(
        tmp_path, sys.executable, "-m", "tuneledger.stages.prepare", check=False, PYTHONPATH=source, DVC_STAGE="prepare"
    )
    assert elsewhere.returncode == 2
    assert "but imports tuneledger from" in elsewhere.stderr
