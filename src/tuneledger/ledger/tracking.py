"""The only module that talks to MLflow: the store, a run's life, and the process behind `tracker.Tracker`.

The store is MLflow's own default layout in the project root, so that `mlflow ui` typed there shows it: mlflow.db,
and artifacts under mlruns/.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tuneledger.paths import store_root

FLUSH_SECONDS = 2.0
SAMPLING_SECONDS = 2.0  # of system metrics: MLflow's own 10 leave a run shorter than that without any
BATCH = 500  # metrics in one call; MLflow takes 1000
PARAMS = 100  # parameters in one call, MLflow's limit
PARAM_LENGTH = 6000  # characters of a parameter's value, MLflow's limit


def tracking_uri(uri: str | None) -> str:
    """The given URI, or the project's own SQLite store; absolute, since runs also start in temporary copies."""
    return uri or f"sqlite:///{store_root() / 'mlflow.db'}"


def connect(uri: str | None, experiment: str) -> tuple[Any, str]:
    """(MlflowClient, experiment id); creates store and experiment on first use.

    A lock spans both, because several processes creating the tables of a fresh SQLite file crash each other. For
    the project's own store, artifacts get an explicit place under mlruns/.
    """
    _calm_mlflow()
    from filelock import FileLock
    from mlflow import MlflowClient, set_tracking_uri

    target = tracking_uri(uri)
    folder = store_root() / "mlruns"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".init.lock"):
        set_tracking_uri(target)
        client = MlflowClient(target)
        found = client.get_experiment_by_name(experiment)
        if found and found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        if found:
            return client, found.experiment_id
        location = (folder / experiment).as_uri() if uri is None else None
        # The tag by which MLflow's UI shows training runs and charts, not its pages for prompts and agents.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return client, client.create_experiment(experiment, artifact_location=location, tags=kind)


def _calm_mlflow() -> None:
    """Defaults that MLflow reads from the environment when it is imported or first used."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own retry an absent server for four minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def open_run(
    *,
    uri: str | None,
    experiment: str,
    system_metrics: bool,
    name: str,
    params: dict[str, Any],
    tags: dict[str, str],
    datasets: list[dict[str, Any]],
    run_id: str | None,
) -> tuple[Any, str, Any]:
    """Create a run, or continue `run_id`; also marks runs whose process is gone as KILLED.

    Args:
        params: dotted keys and values.
        datasets: {name, digest, rows, source, context} each.

    Returns:
        (client, run id, system metrics monitor or None)
    """
    from mlflow.tracking.context.registry import resolve_tags

    client, experiment_id = connect(uri, experiment)
    kill_orphans(client, experiment_id)
    if run_id and _exists(client, run_id):
        client.update_run(run_id, status="RUNNING")
        for tag in ("host", "pid"):
            client.set_tag(run_id, tag, tags[tag])
    else:
        run = client.create_run(experiment_id, run_name=name, tags={**resolve_tags(), **tags})
        run_id = run.info.run_id
        _log_params(client, run_id, params)
        _log_datasets(client, run_id, datasets)
    monitor = None
    if system_metrics:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, sampling_interval=SAMPLING_SECONDS, resume_logging=True)
        monitor.start()
    return client, run_id, monitor


def _exists(client: Any, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        return False


def kill_orphans(client: Any, experiment_id: str) -> None:
    """Mark runs as KILLED that say RUNNING but whose process on this host is gone (power loss, SIGKILL)."""
    running = client.search_runs(
        [experiment_id], f"attributes.status = 'RUNNING' and tags.host = '{socket.gethostname()}'"
    )
    for run in running:
        pid = run.data.tags.get("pid", "")
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            client.set_terminated(run.info.run_id, "KILLED")


def _log_params(client: Any, run_id: str, params: dict[str, Any]) -> None:
    from mlflow.entities import Param

    entries = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in params.items()]
    for start in range(0, len(entries), PARAMS):
        client.log_batch(run_id, params=entries[start : start + PARAMS])


def _log_datasets(client: Any, run_id: str, datasets: list[dict[str, Any]]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(
                name=entry["name"],
                digest=entry["digest"],
                source_type="local",
                source=json.dumps({"uri": entry["source"]}),
                profile=json.dumps({"num_rows": entry["rows"]}),
            ),
            [InputTag("mlflow.data.context", entry["context"])],
        )
        for entry in datasets
    ]
    client.log_inputs(run_id, inputs)


def annotate(client: Any, run_id: str, tags: dict[str, str], metrics: dict[str, float]) -> None:
    """Add tags and figures to a run, whatever its status; figures that are equal already stay single."""
    known = client.get_run(run_id).data.metrics
    for key, value in tags.items():
        client.set_tag(run_id, key, value)
    for key, value in metrics.items():
        if known.get(key) != value:
            client.log_metric(run_id, key, value)


def share_view(
    client: Any, run_id: str, key: str, search: str, order_by: str, ascending: bool, columns: list[str]
) -> None:
    """Keep a view of the runs table with a run's experiment; MLflow's UI shows it at `?viewStateShareKey=<key>`.

    Args:
        search: which runs, in MLflow's search syntax.
        order_by: column to sort by.
        ascending: lowest first.
        columns: shown ones, as "params.`optim.lr`".
    """
    view = {"searchFilter": search, "orderByKey": order_by, "orderByAsc": ascending, "selectedColumns": columns}
    experiment_id = client.get_run(run_id).info.experiment_id
    client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{key}", json.dumps(view))


def register(client: Any, run_id: str, folder: str, text: list[str], name: str, alias: str) -> None:
    """Log a run's model and register it as a new version of `name`, which `alias` then points to; once a run."""
    from mlflow.exceptions import MlflowException

    try:
        if client.get_model_version_by_alias(name, alias).run_id == run_id:
            return
    except MlflowException:  # no such model or alias yet
        pass
    ended = client.get_run(run_id).info
    version = log_model(run_id, folder, text, name)
    client.set_terminated(run_id, ended.status, ended.end_time)  # when the training ended, not the logging
    client.set_registered_model_alias(name, alias, version)


def log_model(run_id: str, folder: str, text: list[str], registered_name: str | None = None) -> str | None:
    """Log a Hugging Face folder as the run's `model`: a pyfunc made of code, so that no pickle is involved.

    Returns:
        the version it has under `registered_name`.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, Schema

    warnings.filterwarnings("ignore", message=".*input example was not provided.*")  # the signature is explicit
    labels = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["id2label"].values()
    scores = [ColSpec(DataType.double, f"{kind}_{label}") for kind in ("probability", "logit") for label in labels]
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string, column) for column in text]),
        outputs=Schema([ColSpec(DataType.string, "label"), *scores]),
    )
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name="model",
            registered_model_name=registered_name,
            python_model=str(Path(__file__).with_name("served_model.py")),
            code_paths=[str(Path(__file__).parents[1] / "learn" / "text_pairs.py")],
            artifacts={"model": folder},
            signature=signature,
            pip_requirements=[f"{name}=={_version(name)}" for name in ("mlflow", "torch", "transformers", "pandas")],
            model_config={"text": text},
        )
    return logged.registered_model_version


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package).partition("+")[0]


def append(run_id: str | None, *, metrics: dict[str, float], artifacts: list[Path], tracking: dict[str, Any]) -> None:
    """Add figures and files to a finished run. Never raises: what goes wrong is printed.

    Args:
        run_id: None, where training was not tracked, does nothing.
        tracking: the section of that name.
    """
    if not (run_id and tracking["enabled"]):
        return
    try:
        client, _ = connect(tracking["uri"], tracking["experiment"])
        for name, value in metrics.items():
            client.log_metric(run_id, name, value)
        for path in artifacts:
            client.log_artifact(run_id, str(path), artifact_path=path.parent.name)
    except Exception as error:
        print(f"tracking failed ({_first_line(error)}); the figures are in results/ and reports/", flush=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Keeper:
    """The other side of one `tracker.Tracker`: takes its messages one by one and writes them down."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.client: Any = None
        self.run_id = ""
        self.monitor: Any = None
        self.pending: list[Any] = []
        self.ended = False

    def take(self, message: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        if "start" in message:
            self.client, self.run_id, self.monitor = open_run(**message["start"])
            experiment_id = self.client.get_run(self.run_id).info.experiment_id
            _reply(of=self.number, run_id=self.run_id, experiment_id=experiment_id)
        elif "metrics" in message:
            stamp, step = message["timestamp"], message["step"]
            self.pending += [Metric(key, value, stamp, step) for key, value in message["metrics"].items()]
            if len(self.pending) >= BATCH:
                self.flush()
        elif "annotate" in message:
            annotate(self.client, message["annotate"], message["tags"], message["values"])
        elif "view" in message:
            parts = ("view", "search", "order_by", "ascending", "columns")
            share_view(self.client, self.run_id, *(message[key] for key in parts))
        elif "register" in message:
            register(self.client, message["register"], *(message[key] for key in ("model", "columns", "name", "alias")))
        elif "artifact" in message:
            log = self.client.log_artifacts if Path(message["artifact"]).is_dir() else self.client.log_artifact
            log(self.run_id, message["artifact"], message["folder"])
        elif "model" in message:
            log_model(self.run_id, message["model"], message["columns"])
        elif "text" in message:
            self.client.log_text(self.run_id, message["text"], message["file"])
        elif "end" in message:
            self.close(message["end"])
            _reply(of=self.number, ended=True)

    def flush(self) -> None:
        if self.pending:
            self.client.log_batch(self.run_id, metrics=self.pending)
            self.pending = []

    def abandon(self) -> None:
        """End the run as FAILED after something in it could not be stored; what is pending is lost."""
        self.pending = []
        self.close("FAILED")

    def close(self, status: str) -> None:
        """End the run, if it was opened and is not ended yet."""
        if self.client and not self.ended:
            self.flush()
            if self.monitor:
                self.monitor.finish()
            self.client.set_terminated(self.run_id, status)
        self.ended = True


def _reply(**message: Any) -> None:
    with suppress(BrokenPipeError):  # the training was killed; its runs are then ended when its line is found broken
        print(json.dumps(message), file=sys.__stdout__, flush=True)


def main() -> None:
    """Serve the Trackers at the other end of standard input; a run still open when the line breaks was killed."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what MLflow prints must not mix with the replies
    sys.__stdout__ = replies
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    _calm_mlflow()
    try:
        import mlflow  # noqa: F401  # seconds long: now, while the training is starting up too
    except Exception as error:
        _reply(of=None, error=_first_line(error))
        sys.exit(1)
    _serve(lines)


def _serve(lines: queue.Queue[str | None]) -> None:
    keepers: dict[int, _Keeper] = {}
    failed: set[int] = set()

    def attempt(number: int, action: Callable[[], None]) -> None:
        """One run's trouble is told once and leaves the others alone."""
        if number not in failed:
            try:
                action()
            except Exception as error:
                failed.add(number)
                _reply(of=number, error=_first_line(error))
                with suppress(Exception):  # the store may be away altogether
                    keepers[number].abandon()

    while True:
        try:
            line = lines.get(timeout=FLUSH_SECONDS)
        except queue.Empty:
            for number, keeper in keepers.items():
                attempt(number, keeper.flush)
            continue
        if line is None:
            for number, keeper in keepers.items():
                attempt(number, partial(keeper.close, "KILLED"))
            return
        message = json.loads(line)
        keeper = keepers.setdefault(message["of"], _Keeper(message["of"]))
        attempt(keeper.number, partial(keeper.take, message))


if __name__ == "__main__":
    main()
