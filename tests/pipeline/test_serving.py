"""The logged model answers over HTTP with the very labels and logits of the pipeline; `mlflow ui` shows the run."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import scratch


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def post(url: str, body: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


@contextlib.contextmanager
def server(project: Path, port: int, path: str, *command: str) -> Iterator[str]:
    """A server process in `project`; yields its address once `path` answers."""
    environment = scratch.environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    process = subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, f"{' '.join(command)} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{' '.join(command)} did not answer"
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address + path, timeout=5)
                break
            time.sleep(0.2)
        yield address
    finally:
        subprocess.run(["kill", "--", f"-{process.pid}"], check=False)
        process.wait(30)


def run_id(project: Path) -> str:
    return json.loads((project / "results/train/run.json").read_text())["mlflow_run_id"]


def test_served_model_equals_pipeline(finished: Path):
    from tuneledger.learn.predict import predict

    rows = pd.read_parquet(finished / "data/prepared/validation.parquet")
    expected = predict(finished / "models/best", finished / "data/tokenized/validation.arrow", batch_size=64)
    port = free_port()
    command = ("mlflow", "models", "serve", "-m", f"runs:/{run_id(finished)}/model", "--env-manager", "local")
    with server(finished, port, "/ping", *command, "--port", str(port)) as address:
        records = rows.rename(columns={"text_a": "sentence1", "text_b": "sentence2"})[["sentence1", "sentence2"]]
        body = {"dataframe_split": records.to_dict(orient="split", index=False)}
        answers = pd.DataFrame(post(f"{address}/invocations", body)["predictions"])
    served = answers[["logit_0", "logit_1"]].to_numpy()
    assert np.abs(served - expected).max() < 1e-4
    assert answers["label"].tolist() == [str(label) for label in expected.argmax(axis=1)]
    assert np.allclose(answers[["probability_0", "probability_1"]].sum(axis=1), 1)


def test_a_model_for_pairs_answers_with_the_code_logged_beside_it(fresh: Path):
    from tuneledger.learn.predict import predict

    settings = ("experiment=smoke", "model.head=pair", "model.both_orders=true", "hydra.run.dir=out")
    scratch.stage(fresh, "train", *settings)
    expected = predict(fresh / "out/models/best", fresh / "data/tokenized/validation.arrow", batch_size=64)
    run = json.loads((fresh / "out/results/train/run.json").read_text())["mlflow_run_id"]
    code = (
        "import sys; sys.modules['tuneledger'] = None  # whoever loads it need not have the project\n"
        "import mlflow, pandas\n"
        "rows = pandas.read_parquet('data/prepared/validation.parquet')[['text_a', 'text_b']]\n"
        "rows.columns = ['sentence1', 'sentence2']\n"
        f"mlflow.pyfunc.load_model('runs:/{run}/model').predict(rows).to_json('answers.json')\n"
    )
    scratch.run(fresh, sys.executable, "-c", code, MLFLOW_TRACKING_URI="sqlite:///mlflow.db")
    served = pd.read_json(fresh / "answers.json")[["logit_0", "logit_1"]].to_numpy()
    assert np.abs(served - expected).max() < 1e-4


def test_plain_mlflow_ui_shows_the_run(finished: Path):
    port = free_port()
    with server(finished, port, "/health", "mlflow", "ui", "--workers", "1", "--port", str(port)) as address:
        names = post(f"{address}/api/2.0/mlflow/experiments/search", {"max_results": 10})["experiments"]
        experiment = next(entry for entry in names if entry["name"] == "tuneledger")
        found = post(f"{address}/api/2.0/mlflow/runs/search", {"experiment_ids": [experiment["experiment_id"]]})
        assert run_id(finished) in [run["info"]["run_id"] for run in found["runs"]]
        artifact = f"{address}/get-artifact?path=reports/report.md&run_uuid={run_id(finished)}"
        with urllib.request.urlopen(artifact, timeout=30) as answer:
            assert answer.read() == (finished / "reports/report.md").read_bytes()
