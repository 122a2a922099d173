"""A training's line to MLflow: a process of its own that is spoken to in JSON lines.

Own process, because importing MLflow takes seconds that then pass beside the start-up of training, because no call
then waits for a database or a server, and because a tracker that dies takes no training with it. When the training
process is killed the line breaks, and the other side marks the run as KILLED.
"""

from __future__ import annotations

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


class Tracker:
    """One tracked run. No method raises: what goes wrong is printed once, and training goes on without tracking.

    Args:
        enabled: without it every call does nothing.
    """

    def __init__(self, enabled: bool):
        self.run_id: str | None = None
        self._run_id_file: Path | None = None
        self._process: subprocess.Popen[str] | None = None
        self._failed = not enabled
        self._ended = False
        if enabled:
            self._spawn()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        """A run that was not ended in so many words has failed."""
        self.end("FAILED")

    def _spawn(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(code_root() / "src")}
        # MLflow's defaults retry a server that is away for many minutes.
        environment.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        environment.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        environment.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        environment.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tuneledger.ledger.tracking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal is for the training, which then says how it ended
        )
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def start(self, run_id_file: Path, **run: Any) -> None:
        """Open the run, or continue the one a checkpoint folder remembers.

        Args:
            run_id_file: where the run's id is kept from its beginning, so that a resumed training continues its run.
            run: what `tracking.open_run` takes, as plain values.
        """
        self._run_id_file = run_id_file
        run_id = run_id_file.read_text(encoding="utf-8").strip() if run_id_file.exists() else None
        self._say(start={**run, "run_id": run_id})

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Log figures at an optimizer step, stamped with the present time."""
        self._say(metrics=values, step=step, timestamp=int(time.time() * 1000))

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

    def end(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED and wait until all is stored; once."""
        if self._failed or self._ended:
            return
        self._say(end=status)
        self._ended = True
        try:
            self._process.stdin.close()
            if self._process.wait(END_SECONDS):
                self._fail("its process died")
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._fail(f"not done after {END_SECONDS} s")
        except OSError as error:
            self._fail(str(error))
        self._reader.join(timeout=10)

    def _say(self, **message: Any) -> None:
        if self._failed:
            return
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            self._fail(str(error))

    def _listen(self) -> None:
        for line in self._process.stdout:
            message = json.loads(line)
            if "run_id" in message:
                self.run_id = message["run_id"]
                try:
                    write_text(self._run_id_file, self.run_id)
                except OSError as error:
                    print(f"tracking: {error}; a resumed training will start another run", flush=True)
            if "error" in message:
                self._fail(message["error"])

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            print(f"tracking failed ({reason}); training goes on, its figures are in results/", flush=True)
