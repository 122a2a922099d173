"""What `dvc repro` leaves behind: files, metrics and plots, a tracked run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import scratch

FILES = {
    "data/prepared": {"train.parquet", "validation.parquet", "test.parquet", "schema.json"},
    "data/tokenized": {"train.arrow", "validation.arrow", "test.arrow", "meta.json", "tokenizer"},
    "models/best": {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"},
    "results/prepare": {"audit.json"},
    "results/train": {"epochs.csv", "steps.csv", "validation.npz", "metrics.json", "cost.json", "run.json"},
    "results/eval": {
        "metrics.json", "cost.json", "slices.csv", "confusion.csv", "calibration.csv", "predictions.parquet",
    },
    "reports": {"report.html", "report.md", "cost.json", "figures"},
}  # fmt: skip


def load(project: Path, name: str) -> dict:
    return json.loads((project / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", FILES)
def test_exactly_these_files(finished: Path, folder: str):
    names = {path.name for path in (finished / folder).iterdir() if path.name != ".gitignore"}
    assert names == FILES[folder]


def test_every_stage_ran_and_a_second_repro_does_nothing(finished: Path):
    first = (finished / "repro.txt").read_text()
    stages = ["config", "prepare", "tokenize", "train", "evaluate", "report"]
    assert [stage for stage in stages if f"Running stage '{stage}'" in first] == stages
    again = scratch.run(finished, "dvc", "repro")
    assert "Running stage" not in again.stdout
    assert "Data and pipelines are up to date" in again.stdout + again.stderr


def test_the_table_of_the_lecture_is_printed(finished: Path):
    lines = (finished / "repro.txt").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("Epoch  Training Loss"))
    assert "always answering" in lines[start - 1]
    epochs = (finished / "results/train/epochs.csv").read_text().splitlines()[1:]
    assert [line.split()[0] for line in lines[start + 1 : start + 3]] == [row.split(",")[0] for row in epochs]


def test_dvc_shows_metrics_parameters_and_plots(finished: Path):
    shown = json.loads(scratch.run(finished, "dvc", "metrics", "show", "--json").stdout)[""]["data"]
    metrics = {name: entry["data"] for name, entry in shown.items()}
    assert metrics["results/eval/metrics.json"]["split"] == "test"
    assert 0 <= metrics["results/eval/metrics.json"]["accuracy"] <= 1
    assert metrics["results/train/cost.json"]["fit_seconds"] > 0
    assert "usd" not in metrics["reports/cost.json"]  # hardware without a price; DVC leaves nulls out
    table = scratch.run(finished, "dvc", "exp", "show", "--csv").stdout.splitlines()[0].split(",")
    assert {"accuracy", "optim.lr", "params.yaml:optim.lr"} & set(table)
    plots = scratch.run(finished, "dvc", "plots", "show", "--json").stdout
    for name in ("Loss by epoch", "results/eval/confusion.csv", "reports/figures/loss.svg"):
        assert name in plots or name.replace("/", "_") in plots
    # Without an x and y of its own DVC draws a file's last column by the number of its line.
    drawn = json.loads(plots)["data"]
    for name, field in {
        "train/steps.csv": "loss",
        "train/epochs.csv": "val_loss",
        "eval/slices.csv": "accuracy",
    }.items():
        assert f'"field": "{field}"' in json.dumps(drawn[f"results/{name}"][0]["content"])


def test_evaluation_agrees_with_training_on_what_both_know(finished: Path):
    cost = load(finished, "results/train/cost.json")
    meta = load(finished, "data/tokenized/meta.json")
    epochs = load(finished, "results/train/metrics.json")["epochs"]
    assert cost["tokens_total"] == meta["splits"]["train"]["tokens"] * epochs
    assert cost["examples"] == meta["splits"]["train"]["rows"] * epochs
    assert cost["padded_tokens_total"] >= cost["tokens_total"]
    assert load(finished, "models/best/config.json")["id2label"] == {"0": "0", "1": "1"}


@pytest.fixture(scope="module")
def client(finished: Path):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{finished / 'mlflow.db'}")


def test_the_run_holds_everything(finished: Path, client):
    run_id = load(finished, "results/train/run.json")["mlflow_run_id"]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["optim.lr"] == "0.001"
    assert run.data.params["seed"] == "1"
    evaluated = load(finished, "results/eval/metrics.json")
    assert run.data.metrics["test_accuracy"] == evaluated["accuracy"]
    epochs = [entry.value for entry in client.get_metric_history(run_id, "val_loss")]
    assert len(epochs) == load(finished, "results/train/metrics.json")["epochs"]
    assert run.data.metrics["best_accuracy"] == load(finished, "results/train/metrics.json")["accuracy"]
    assert {"train_loss", "f1", "lr", "cost/fit_seconds", "cost/evaluate_seconds", "cost/flops"} <= set(
        run.data.metrics
    )
    tags = run.data.tags
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert tags["git.dirty"] == "true"  # conf/config.yaml was edited and not committed
    assert tags["dvc.stage"] == "train"
    assert {entry.dataset.name for entry in run.inputs.dataset_inputs} == {"twins"}
    assert {entry.tags[0].value for entry in run.inputs.dataset_inputs} == {"training", "validation", "test"}
    artifacts = {entry.path for folder in ("config", "train", "reports", "eval", "figures")
                 for entry in client.list_artifacts(run_id, folder)}  # fmt: skip
    assert {"config/params.yaml", "config/dvc.lock", "train/epochs.csv", "reports/report.html"} <= artifacts
    assert {"eval/confusion.csv", "figures/loss.svg"} <= artifacts


def test_no_artifact_lies_outside_mlruns(finished: Path):
    assert not [path for path in finished.iterdir() if path.name.isdigit()]
    assert not (finished / "checkpoints").exists() or not list((finished / "checkpoints").glob("*/*.ckpt"))
