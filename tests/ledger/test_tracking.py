from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tuneledger.errors import UserError
from tuneledger.ledger import tracking
from tuneledger.ledger.tracking import append, kill_orphans, tracking_uri

OFF = {"enabled": False, "uri": None, "experiment": "x"}
ON = {"enabled": True, "uri": None, "experiment": "x"}


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path.resolve()


class TestUri:
    def test_the_projects_own_store_lies_in_the_main_checkout(self, root):
        assert tracking_uri(None) == f"sqlite:///{root}/mlflow.db"

    @pytest.mark.parametrize("uri", ["http://localhost:5000", "https://user@example.org/mlflow", "sqlite:////tmp/a.db"])
    def test_another_stays(self, uri):
        assert tracking_uri(uri) == uri


class FakeClient:
    """Holds runs by id and pid; remembers what it was asked."""

    def __init__(self, **pids: str):
        self.pids, self.ended, self.metrics, self.artifacts = pids, {}, {}, []

    def search_runs(self, experiments: list[str], query: str) -> list[SimpleNamespace]:
        self.query = (experiments, query)
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=run), data=SimpleNamespace(tags={"pid": pid} if pid else {}))
            for run, pid in self.pids.items()
        ]

    def set_terminated(self, run_id: str, status: str) -> None:
        self.ended[run_id] = status

    def log_metric(self, run_id: str, name: str, value: float) -> None:
        self.metrics[run_id, name] = value

    def log_artifact(self, run_id: str, path: str, artifact_path: str) -> None:
        self.artifacts.append((run_id, path, artifact_path))


def test_orphans_are_killed_and_nothing_else():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    client = FakeClient(dead=str(gone.pid), alive=str(os.getpid()), strange="x", without="")
    kill_orphans(client, "7")
    assert client.query == (["7"], f"attributes.status = 'RUNNING' and tags.host = '{socket.gethostname()}'")
    assert client.ended == {"dead": "KILLED"}


class TestAppend:
    def test_figures_and_files(self, tmp_path, monkeypatch):
        client = FakeClient()
        monkeypatch.setattr(tracking, "connect", lambda uri, experiment: (client, "1"))
        report = tmp_path / "reports" / "report.html"
        append("run", metrics={"eval/accuracy": 0.9}, artifacts=[report], tracking=ON)
        assert client.metrics == {("run", "eval/accuracy"): 0.9}
        assert client.artifacts == [("run", str(report), "reports")]

    @pytest.mark.parametrize(("run_id", "section"), [(None, ON), ("run", OFF)])
    def test_does_nothing_for_a_run_that_is_not_tracked(self, monkeypatch, capsys, run_id, section):
        monkeypatch.setattr(tracking, "connect", pytest.fail)
        append(run_id, metrics={"a": 1.0}, artifacts=[], tracking=section)
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (RuntimeError("no such run\nmore"), "no such run"),
            (KeyError(), "KeyError"),
            (UserError("a password"), "a password"),
        ],
    )
    def test_never_raises(self, monkeypatch, capsys, error, words):
        def fail(uri, experiment):
            raise error

        monkeypatch.setattr(tracking, "connect", fail)
        append("run", metrics={}, artifacts=[], tracking=ON)
        assert capsys.readouterr().out == f"tracking failed ({words}); the figures are in results/ and reports/\n"


def test_only_the_tracking_modules_import_mlflow():
    source = Path(tracking.__file__).parents[1]
    importing = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if any(line.strip().startswith(("import mlflow", "from mlflow")) for line in path.read_text().splitlines())
    }
    assert importing == {"ledger/tracking.py", "ledger/served_model.py"}
