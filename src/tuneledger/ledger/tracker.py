"""A training's line to MLflow: a process of its own that is spoken to in JSON lines.

Own process, because importing MLflow takes seconds that then pass beside the start-up of training, because no call
then waits for a database or a server, and because a tracker that dies takes no training with it. When the training
process is killed the line breaks, and the other side marks the runs still open as KILLED. One line serves any number
of runs: the trials of a sweep share it.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tuneledger.errors import UserError
from tuneledger.paths import code_root, write_text

END_SECONDS = 300  # how long the end of a training waits for its last figures and its model to be stored


def check_tracking(*, enabled: bool, uri: str | None, experiment: str, log_model: bool, system_metrics: bool) -> None:
    """The section `tracking`. Raise UserError for a URI with credentials, which would end up in params.yaml."""
    parts = urlsplit(uri or "")
    if parts.password or (parts.scheme.startswith("http") and (parts.username or parts.query)):
        raise UserError(
            "tracking.uri carries credentials: take them out and set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
        )


class Line:
    """The process that talks to MLflow and the pipes to it. No method raises."""

    def __init__(self) -> None:
        self._trackers: list[Tracker] = []
        environment = {**os.environ, "PYTHONPATH": str(code_root() / "src")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tuneledger.ledger.tracking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal is for the training, which then says how it ended
        )
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def join(self, tracker: Tracker) -> int:
        """Take a tracker's replies from now on; returns its number in messages."""
        self._trackers.append(tracker)
        return len(self._trackers) - 1

    def say(self, message: dict[str, Any]) -> str | None:
        """Send a message; returns why that failed, or None."""
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except (OSError, ValueError) as error:
            return str(error)
        return None

    def close(self) -> None:
        """Wait until all that was said is stored."""
        try:
            self.process.stdin.close()
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
        except OSError:  # what was said last did not get through, which the reader has told
            pass
        self._reader.join(timeout=10)

    def _listen(self) -> None:
        for text in self.process.stdout:
            message = json.loads(text)
            concerned = self._trackers if message["of"] is None else [self._trackers[message["of"]]]
            for tracker in concerned:
                tracker.hear(message)
        for tracker in self._trackers:
            tracker.hear({"error": "its process died"})


@functools.cache
def shared_line() -> Line:
    """This process's line for the runs of a sweep; closed when the process ends."""
    line = Line()
    atexit.register(line.close)
    return line


class Tracker:
    """One tracked run. No method raises: what goes wrong is printed once, and training goes on without tracking.

    Args:
        enabled: without it every call does nothing.
        line: to share with other runs; without one the tracker opens its own, and ends it with its run.
    """

    def __init__(self, enabled: bool, line: Line | None = None):
        self.run_id: str | None = None
        self.experiment_id: str | None = None
        self._run_id_file: Path | None = None
        self._failed = not enabled
        self._ended = False
        self._known, self._stored = threading.Event(), threading.Event()
        self._own_line = line is None
        self._line = line or (Line() if enabled else None)
        self._number = self._line.join(self) if enabled else -1

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        """A run that was not ended in so many words has failed."""
        self.end("FAILED")

    def start(self, run_id_file: Path, **run: Any) -> None:
        """Open the run, or continue the one a folder remembers.

        Args:
            run_id_file: where the run's id is kept from its beginning, so that a resumed training continues its run.
            run: what `tracking.open_run` takes, as plain values.
        """
        self._run_id_file = run_id_file
        run_id = run_id_file.read_text(encoding="utf-8").strip() if run_id_file.exists() else None
        self._say(start={**run, "run_id": run_id})

    def wait_for_run_id(self) -> str | None:
        """The run's id once the store has given it; None without tracking."""
        if not self._failed:
            self._known.wait(END_SECONDS)
        return self.run_id

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Log figures at an optimizer step, stamped with the present time."""
        self._say(metrics=values, step=step, timestamp=int(time.time() * 1000))

    def annotate(self, run_id: str, tags: dict[str, str], metrics: dict[str, float]) -> None:
        """Add tags and final figures to another run of the same store, one that has ended."""
        self._say(annotate=run_id, tags=tags, values=metrics)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file, or a whole folder, under the run."""
        self._say(artifact=str(path.resolve()), folder=folder)

    def text(self, content: str, file: str) -> None:
        """Store text as a file under the run, such as "config/params.yaml"."""
        self._say(text=content, file=file)

    def model(self, folder: Path, text: list[str]) -> None:
        """Store a Hugging Face folder so that `mlflow models serve -m runs:/<id>/model` answers.

        Args:
            folder: model and tokenizer.
            text: names of the one or two text columns a request carries.
        """
        self._say(model=str(folder.resolve()), columns=text)

    def register(self, run_id: str, folder: Path, text: list[str], name: str, alias: str) -> None:
        """Store another run's model as `model` does and make it a version of a registered model, under an alias."""
        self._say(register=run_id, model=str(folder.resolve()), columns=text, name=name, alias=alias)

    def view(self, key: str, search: str, order_by: str, ascending: bool, columns: list[str]) -> None:
        """Keep a view of the runs table, see `tracking.share_view`."""
        self._say(view=key, search=search, order_by=order_by, ascending=ascending, columns=columns)

    def end(self, status: str, *, wait: bool = True) -> None:
        """Close the run as FINISHED, FAILED or KILLED; once. With `wait`, return when all is stored."""
        if self._ended:
            return
        self._ended = True
        self._say(end=status)
        if wait and not self._failed and not self._stored.wait(END_SECONDS):
            self._fail(f"not done after {END_SECONDS} s")
        if self._own_line and self._line:
            self._line.close()

    def hear(self, message: dict[str, Any]) -> None:
        """Take a reply from the line."""
        if "run_id" in message:
            self.run_id, self.experiment_id = message["run_id"], message["experiment_id"]
            try:
                write_text(self._run_id_file, self.run_id)
            except OSError as error:
                print(f"tracking: {error}; a resumed training will start another run", flush=True)
        elif "error" in message and not self._stored.is_set():
            self._fail(message["error"])
            self._stored.set()
        elif "ended" in message:
            self._stored.set()
        self._known.set()

    def _say(self, **message: Any) -> None:
        if not self._failed:
            problem = self._line.say({**message, "of": self._number})
            if problem:
                self._fail(problem)

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            print(f"tracking failed ({reason}); training goes on, its figures are in results/", flush=True)
