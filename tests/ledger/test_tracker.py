"""Runs in real SQLite stores; tests share one, since each tracker is a process that takes seconds to import MLflow."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scratch

from tuneledger.errors import UserError
from tuneledger.ledger.tracker import Tracker, check_tracking
from tuneledger.ledger.tracking import SAMPLING_SECONDS

LONG = "x" * 7000
GONE = "0" * 32  # the id of a run that was deleted since
RUN = {
    "uri": None,
    "experiment": "tests",
    "system_metrics": False,
    "name": "a name",
    "params": {f"key_{number}": number for number in range(150)} | {"optim.lr": 1e-4, "long": LONG},
    "tags": {"host": "elsewhere", "pid": "1", "conf_sha": "abc"},
    "datasets": [
        {"name": "twins", "digest": "0123456789abcdef", "source": "data/raw/twins", "rows": 12, "context": "training"}
    ],
}


def track(root: Path, folder: Path, status: str = "FINISHED", **changes: Any) -> None:
    """One whole run, in a process of its own; writes what its Tracker knew at the end to folder/outcome.json."""
    os.environ["DVC_ROOT"] = str(root)
    tracker = Tracker(True)
    tracker.start(folder / "run_id", **{**RUN, **changes})
    tracker.metrics({"loss": 0.5}, 3)
    tracker.end(status)
    (folder / "outcome.json").write_text(json.dumps({"run_id": tracker.run_id}))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[tuple[Path, list[Path]]]:
    """A store that two processes opened at once while it was fresh, and the folders of their runs."""
    root = tmp_path_factory.mktemp("store")
    folders = [tmp_path_factory.mktemp(f"run{number}") for number in range(2)]
    (folders[1] / "run_id").write_text(GONE)
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=track, args=(root, folder)) for folder in folders]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    yield root, folders


@pytest.fixture
def root(store, monkeypatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(store[0]))
    return store[0]


def rows(root: Path, query: str, *values: Any) -> list[tuple]:
    with sqlite3.connect(root / "mlflow.db") as database:
        return database.execute(query, values).fetchall()


def status(root: Path, run_id: str) -> str:
    [(value,)] = rows(root, "select status from runs where run_uuid = ?", run_id)
    return value


def test_two_processes_open_a_fresh_store_at_once(store):
    root, folders = store
    ids = [json.loads((folder / "outcome.json").read_text())["run_id"] for folder in folders]
    assert all(ids) and ids[0] != ids[1]
    assert [status(root, run_id) for run_id in ids] == ["FINISHED", "FINISHED"]
    assert rows(root, "select count(*) from experiments where name = 'tests'") == [(1,)]


def test_a_remembered_run_that_is_gone_is_replaced(store):
    root, folders = store
    run_id = (folders[1] / "run_id").read_text()
    assert run_id != GONE
    assert status(root, run_id) == "FINISHED"


def test_a_run_keeps_params_metrics_tags_lineage_and_files_and_can_be_continued(root, tmp_path, capfd):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metrics.json").write_text("{}")
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    tracker = Tracker(True)
    tracker.start(tmp_path / "run_id", **RUN)
    tracker.metrics({"loss": 0.5, "lr": 1e-4}, 3)
    tracker.metrics({"loss": 0.25}, 6)
    tracker.artifact(tmp_path / "train", "train")
    tracker.artifact(tmp_path / "params.yaml", "config")
    tracker.end("FAILED")
    run_id = (tmp_path / "run_id").read_text()
    assert tracker.run_id == run_id
    assert status(root, run_id) == "FAILED"

    resumed = Tracker(True)
    resumed.start(tmp_path / "run_id", **{**RUN, "tags": {**RUN["tags"], "pid": "2"}})
    wait_for(lambda: status(root, run_id) == "RUNNING")
    resumed.metrics({"loss": 0.125}, 9)
    resumed.end("FINISHED")
    assert resumed.run_id == run_id
    assert status(root, run_id) == "FINISHED"
    assert capfd.readouterr().out == ""

    params = dict(rows(root, "select key, value from params where run_uuid = ?", run_id))
    assert len(params) == 152
    assert (params["optim.lr"], params["key_149"]) == ("0.0001", "149")
    assert params["long"] == LONG[:6000]
    metrics = rows(root, "select key, value, step from metrics where run_uuid = ? order by step, key", run_id)
    assert metrics == [("loss", 0.5, 3), ("lr", 1e-4, 3), ("loss", 0.25, 6), ("loss", 0.125, 9)]
    tags = dict(rows(root, "select key, value from tags where run_uuid = ?", run_id))
    assert (tags["conf_sha"], tags["mlflow.runName"], tags["pid"]) == ("abc", "a name", "2")
    [dataset] = rows(
        root,
        "select d.name, d.digest, d.dataset_source, d.dataset_profile from datasets d "
        "join inputs i on i.source_id = d.dataset_uuid where i.destination_id = ?",
        run_id,
    )
    assert dataset == ("twins", "0123456789abcdef", '{"uri": "data/raw/twins"}', '{"num_rows": 12}')
    artifacts = root / "mlruns" / "tests" / run_id / "artifacts"
    assert (artifacts / "train" / "metrics.json").read_text() == "{}"
    assert (artifacts / "config" / "params.yaml").read_text() == "seed: 1\n"


def test_a_run_of_a_few_seconds_has_system_metrics(root, tmp_path):
    tracker = Tracker(True)
    tracker.start(tmp_path / "run_id", **{**RUN, "params": {}, "system_metrics": True})
    tracker.wait_for_run_id()
    time.sleep(2 * SAMPLING_SECONDS)
    tracker.end("FINISHED")
    keys = {key for (key,) in rows(root, "select key from metrics where run_uuid = ?", tracker.run_id)}
    assert "system/cpu_utilization_percentage" in keys


def test_a_killed_training_leaves_a_run_that_says_so(root, tmp_path):
    program = (
        "import pathlib, sys, time, json; sys.path.insert(0, sys.argv[1])\n"
        "from tuneledger.ledger.tracker import Tracker, check_tracking\n"
        "tracker = Tracker(True)\n"
        "tracker.start(pathlib.Path(sys.argv[2]), **json.loads(sys.argv[3]))\n"
        "tracker.metrics({'loss': 0.5}, 1)\n"
        "time.sleep(600)"
    )
    arguments = [str(scratch.ROOT / "src"), str(tmp_path / "run_id"), json.dumps({**RUN, "params": {}})]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments])
    wait_for((tmp_path / "run_id").exists)
    run_id = (tmp_path / "run_id").read_text()
    assert status(root, run_id) == "RUNNING"
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: status(root, run_id) != "RUNNING")
    assert status(root, run_id) == "KILLED"
    assert rows(root, "select key, value, step from metrics where run_uuid = ?", run_id) == [("loss", 0.5, 1)]


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


class TestFailure:
    """Training goes on, whatever becomes of its tracker."""

    def try_all(self, root: Path, folder: Path, monkeypatch, **changes: Any) -> Tracker:
        monkeypatch.setenv("DVC_ROOT", str(root))
        tracker = Tracker(True)
        tracker.start(folder / "run_id", **{**RUN, **changes})
        for step in range(3):
            tracker.metrics({"loss": 0.5}, step)
        tracker.artifact(folder)
        tracker.end("FINISHED")
        return tracker

    def test_a_server_that_is_not_there(self, tmp_path, monkeypatch, capfd):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        tracker = self.try_all(tmp_path, tmp_path, monkeypatch, uri="http://127.0.0.1:9")
        said = capfd.readouterr().out
        assert said.startswith("tracking failed (")
        assert said.endswith("); training goes on, its figures are in results/\n")
        assert said.count("\n") == 1
        assert "127.0.0.1" in said
        assert tracker.run_id is None

    def test_a_store_that_cannot_be_written(self, tmp_path, monkeypatch, capfd):
        (tmp_path / "mlruns").write_text("in the way")
        self.try_all(tmp_path, tmp_path, monkeypatch)
        said = capfd.readouterr().out
        assert said.startswith("tracking failed (") and "mlruns" in said
        assert said.count("\n") == 1

    @pytest.mark.parametrize(
        "uri",
        [
            "http://user:hunter2@127.0.0.1:9",
            "https://hunter2@example.org",
            "https://example.org/?token=hunter2",
            "postgresql://u:hunter2@db/mlflow",
        ],
    )
    def test_credentials_in_the_uri_are_refused_and_not_repeated(self, uri):
        with pytest.raises(UserError, match=r"^tracking\.uri carries credentials") as error:
            check_tracking(enabled=True, uri=uri, experiment="e", log_model=False, system_metrics=False)
        assert "hunter2" not in str(error.value)

    @pytest.mark.parametrize("uri", [None, "http://localhost:5000", "sqlite:////tmp/a.db", "postgresql://u@db/mlflow"])
    def test_a_uri_without_credentials_passes(self, uri):
        check_tracking(enabled=True, uri=uri, experiment="e", log_model=False, system_metrics=False)

    def test_a_tracker_process_that_dies(self, tmp_path, monkeypatch, capfd):
        tracker = Tracker(True)
        tracker._line.process.kill()
        tracker._line.process.wait()
        tracker.start(tmp_path / "run_id", **RUN)
        tracker.metrics({"loss": 1.0}, 1)
        tracker.end("FINISHED")
        said = capfd.readouterr().out
        assert said.startswith("tracking failed (") and said.count("\n") == 1

    def test_a_run_that_could_not_all_be_stored_says_failed_and_its_process_ends(self, root, tmp_path, capfd):
        tracker = Tracker(True)
        tracker.start(tmp_path / "run_id", **{**RUN, "params": {}})
        tracker.artifact(tmp_path / "missing.txt")
        tracker.end("FINISHED")
        assert status(root, tracker.run_id) == "FAILED"
        assert tracker._line.process.poll() is not None
        assert capfd.readouterr().out.startswith("tracking failed (")

    def test_a_run_id_that_cannot_be_kept(self, root, tmp_path, capfd):
        (tmp_path / "file").write_text("in the way")
        tracker = Tracker(True)
        tracker.start(tmp_path / "file" / "run_id", **{**RUN, "params": {}})
        tracker.end("FINISHED")
        assert status(root, tracker.run_id) == "FINISHED"
        assert "a resumed training will start another run" in capfd.readouterr().out


def test_a_disabled_tracker_does_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    tracker = Tracker(False)
    tracker.start(tmp_path / "run_id", **RUN)
    tracker.metrics({"loss": 1.0}, 1)
    tracker.artifact(tmp_path)
    tracker.model(tmp_path, ["text"])
    tracker.end("FINISHED")
    assert tracker.run_id is None
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
