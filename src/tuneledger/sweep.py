"""A --multirun as one thing: a parent run in MLflow over its jobs, and a ranked table at its end.

Hydra calls this through conf/hydra/callbacks/sweep.yaml. The table is made of the files that the jobs wrote.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from tuneledger.conf import bind, plain
from tuneledger.ledger.tracker import check_tracking
from tuneledger.paths import TRAIN_RESULTS, write_text

UNFINISHED = "not finished"
PARENT = "MLFLOW_PARENT_RUN_ID"  # inherited by the jobs, also by those in worker processes


class Sweep(Callback):
    """Opens the parent run before the first job and closes it after the last."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self.folder = Path(config.hydra.sweep.dir).resolve()
        self.select = plain(config.trainer.select)
        self.tracking = bind(check_tracking, "tracking", plain(config.tracking))
        check_tracking(**self.tracking)
        self.open = True
        os.environ.pop(PARENT, None)
        if self.tracking["enabled"]:
            self._open_parent()
        # Hydra does not call on_multirun_end when a job failed or the sweep was interrupted.
        atexit.register(self.close)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Print the ranked table, keep it beside the jobs, end the parent run; once."""
        if not self.open:
            return
        self.open = False
        jobs = rank(read_jobs(self.folder), **self.select)
        table = format_table(jobs, self.select["metric"])
        print(table, flush=True)
        if jobs:
            write_text(self.folder / "sweep.md", table + "\n")
        run_id = os.environ.pop(PARENT, None)
        if run_id:
            self._close_parent(run_id, jobs)

    def _open_parent(self) -> None:
        from tuneledger.ledger.tracking import connect

        tags = {"host": socket.gethostname(), "pid": str(os.getpid()), "sweep_dir": self.folder.name}
        try:
            client, experiment = connect(self.tracking["uri"], self.tracking["experiment"])
            run = client.create_run(
                experiment, run_name=f"sweep {self.folder.parent.name} {self.folder.name}", tags=tags
            )
            os.environ[PARENT] = run.info.run_id
        except Exception as error:
            print(f"tracking failed ({error}); the sweep goes on without a parent run", flush=True)

    def _close_parent(self, run_id: str, jobs: list[dict[str, Any]]) -> None:
        from tuneledger.ledger.tracking import connect

        try:
            client, _ = connect(self.tracking["uri"], self.tracking["experiment"])
            done = [job for job in jobs if job["error"] is None]
            if done:
                for name in ("val_loss", "accuracy", "f1"):
                    client.log_metric(run_id, f"best_{name}", done[0][name])
                client.set_tag(run_id, "best_overrides", done[0]["overrides"])
                client.log_artifact(run_id, str(self.folder / "sweep.md"))
            client.set_terminated(run_id, _status(jobs))
        except Exception as error:
            print(f"tracking failed ({error}); the table is in {self.folder / 'sweep.md'}", flush=True)


def _status(jobs: list[dict[str, Any]]) -> str:
    errors = [job["error"] for job in jobs if job["error"] is not None]
    if not jobs or UNFINISHED in errors:
        return "KILLED"
    return "FAILED" if errors else "FINISHED"


def read_jobs(folder: Path) -> list[dict[str, Any]]:
    """What each job of a sweep folder was given and how it ended; an unfinished one counts as an error."""
    jobs = []
    for job in sorted(folder.glob("[0-9]*"), key=lambda path: int(path.name)):
        overrides = ", ".join(OmegaConf.load(job / ".hydra" / "overrides.yaml"))
        results = job / TRAIN_RESULTS
        if (results / "run.json").exists():
            scores = json.loads((results / "metrics.json").read_text(encoding="utf-8"))
            cost = json.loads((results / "cost.json").read_text(encoding="utf-8"))
            jobs.append({"job": job.name, "overrides": overrides, "error": None, **scores, **cost})
        else:
            file = job / "error.txt"
            reason = file.read_text(encoding="utf-8").strip() if file.exists() else UNFINISHED
            jobs.append({"job": job.name, "overrides": overrides, "error": reason})
    return jobs


def rank(jobs: list[dict[str, Any]], *, metric: str, mode: str) -> list[dict[str, Any]]:
    """Best job first by the metric that chose the epochs (by val_loss where that is "epoch"); failed ones last."""
    if metric == "epoch":
        metric, mode = "val_loss", "min"
    done = [job for job in jobs if job["error"] is None]
    failed = [job for job in jobs if job["error"] is not None]
    return sorted(done, key=lambda job: job[metric], reverse=mode == "max") + failed


def format_table(jobs: list[dict[str, Any]], metric: str) -> str:
    """The ranked jobs as a Markdown table."""
    lines = [
        f"Ranked by {'val_loss' if metric == 'epoch' else metric} on the validation split:",
        "",
        "| Rank | Job | Overrides | Validation loss | Accuracy [95 % interval] | F1 | Epoch | Seconds |",
        "|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for place, job in enumerate(jobs, start=1):
        overrides = job["overrides"].replace("|", "\\|")
        if job["error"] is not None:
            reason = (job["error"].splitlines() or ["no reason given"])[0].replace("|", "\\|")
            lines.append(f"| – | {job['job']} | {overrides} | failed: {reason} | | | | |")
            continue
        accuracy = f"{job['accuracy']:.3f} [{job['accuracy_low']:.3f}, {job['accuracy_high']:.3f}]"
        lines.append(
            f"| {place} | {job['job']} | {overrides} | {job['val_loss']:.4f} | {accuracy} | {job['f1']:.3f} "
            f"| {job['best_epoch']} | {job['fit_seconds']:.0f} |"
        )
    return "\n".join(lines)
