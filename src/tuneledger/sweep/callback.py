"""What Hydra calls before and after a --multirun, through conf/hydra/callbacks/sweep.yaml.

Before: the data, the folder (that of an interrupted sweep of the same command, else a new one), the parent run.
After, however the sweep ended: the page, the ranked table, the winner registered.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import re
import shlex
import shutil
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from tuneledger.conf import bind, composition_errors, conf_dir, literal, plain
from tuneledger.errors import UserError, exit_code
from tuneledger.learn.build import read_meta
from tuneledger.learn.processes import process_number
from tuneledger.ledger.provenance import file_digests, run_key
from tuneledger.ledger.tracker import Tracker, check_tracking, shared_line
from tuneledger.paths import BEST_MODEL, REPORTS, TOKENIZED, code_root, write_text
from tuneledger.pipeline import ensure_tokenized
from tuneledger.sweep.folder import SweepFolder, claim
from tuneledger.sweep.space import Space, read_space
from tuneledger.sweep.sweeper import planned_trials

if TYPE_CHECKING:  # imports pandas and matplotlib, for which a start need not wait
    from tuneledger.show.sweep import SweepResults, Trial

PARENT = "MLFLOW_PARENT_RUN_ID"  # inherited by the jobs, also by those in worker processes
PAGE, TABLE = "sweep.html", "sweep.md"
SHOWN = ("best_val_loss", "best_accuracy", "best_f1", "best_epoch", "cost/fit_seconds", "usd")  # columns in MLflow
APART = ("tracking", "cost", "conf_sha", "descent", "lr_find", "hydra")  # sections that no trial's result follows from
NOTE = 5000  # characters of a run's description; MLflow takes 8000
EXTRAS = {"hydra_joblib_launcher": "sweep", "hydra_submitit_launcher": "slurm", "hydra_ray_launcher": "ray"}


class Sweep(Callback):
    """Holds a sweep together. Hydra turns exceptions in callbacks into warnings, so trouble here leaves the process."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: launchers send Hydra's callbacks along with each job, where this one has nothing to do."""
        return {}

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        or_leave(lambda: self.open(config))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        or_leave(self.close)

    def open(self, config: DictConfig) -> None:
        # Now, for `close`: it may run at exit, when pandas cannot be imported any more (it wants to start threads).
        import tuneledger.sweep.jobs  # noqa: F401

        check_launcher(config.hydra.launcher)
        check_folders(config.hydra)
        self.settings = plain(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]))
        self.tracking = bind(check_tracking, "tracking", self.settings["tracking"])
        check_tracking(**self.tracking)
        sweeper = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
        given = OmegaConf.to_container(config.hydra.overrides.task)
        arguments = [*(f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()), *given]
        loader = GlobalHydra.instance().config_loader()
        self.space = read_space(arguments, loader)
        self.planned = planned_trials(self.space, sweeper)
        check_swept(self.space)
        check_composes(config, self.space, loader)
        ensure_tokenized()
        self.tokenized = code_root() / TOKENIZED
        read_meta(self.tokenized, self.settings)  # now, since each trial would fail of it
        identity = sweep_identity(given, sweeper, self.settings, self.tokenized)
        self.sweep = claim_folder(config, identity)
        self.folder = self.sweep.path
        if self.sweep.resumed:
            print(f"going on with {self.folder}: trials that ended are not run again", flush=True)
        # Each job is composed anew from the overrides, so that is where its folder has to be.
        with read_write(config.hydra):
            config.hydra.sweep.dir = str(self.folder)
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={literal(str(self.folder))}")
        os.environ.pop(PARENT, None)
        line = shared_line() if self.tracking["enabled"] else None
        self.parent = Tracker(self.tracking["enabled"], line)
        self.closed = False
        # Hydra does not call on_multirun_end when a job failed or the sweep was interrupted.
        atexit.register(lambda: exit_code(self.close))
        self._open_parent()

    def close(self) -> None:
        """Write the page and the table, end the parent run; once."""
        from tuneledger.show.sweep import html, table, winner
        from tuneledger.sweep.jobs import read_sweep

        if self.closed:
            return
        self.closed = True
        results = read_sweep(self.folder, self.settings, self.space, self.planned)
        report = table(results)
        print(report, flush=True)
        write_text(self.folder / TABLE, report + "\n")
        page = html(results)
        write_text(self.folder / PAGE, page)
        write_text(code_root() / REPORTS / PAGE, page)
        print(f"page: {self.folder / PAGE}", flush=True)
        outcomes = [trial.outcome for trial in results.trials]
        ended = len(outcomes) == self.planned and "unfinished" not in outcomes
        best = winner(results)
        self._close_parent(results, best, ended)
        if ended:  # last: from now on the same command starts another sweep
            self.sweep.finish(best.number if best else None)

    def _open_parent(self) -> None:
        self.parent.start(
            self.folder / "mlflow_run_id",
            uri=self.tracking["uri"],
            experiment=self.tracking["experiment"],
            system_metrics=False,
            name=f"sweep {self.folder.parent.name} {self.folder.name}",
            params={"swept": ", ".join(self.space.swept), "trials": self.planned},
            tags={"host": socket.gethostname(), "pid": str(os.getpid()), "sweep_dir": str(self.folder)},
            datasets=[],
        )
        run_id = self.parent.wait_for_run_id()
        if run_id:
            os.environ[PARENT] = run_id

    def _close_parent(self, results: SweepResults, best: Trial | None, ended: bool) -> None:
        os.environ.pop(PARENT, None)
        if best:
            scores = {f"best_{name}": best.scores[name] for name in ("val_loss", "accuracy", "f1")}
            self.parent.metrics(scores, 0)
        seconds = sum(trial.seconds for trial in results.trials)
        self.parent.metrics({"cost/fit_seconds": seconds, "trials": len(results.trials)}, 0)
        self._share_view(results.metric, results.mode == "min")
        if self.parent.run_id:
            note = (self.folder / TABLE).read_text(encoding="utf-8")
            self.parent.annotate(self.parent.run_id, {"mlflow.note.content": note[:NOTE]}, {})
        self.parent.artifact(self.folder / PAGE)
        self.parent.artifact(self.folder / TABLE)
        for trial in results.trials:
            if trial.run_id:
                tags = {"outcome": trial.outcome, "reason": trial.reason, "sweep_winner": str(trial is best).lower()}
                tags |= {f"swept.{key}": value for key, value in trial.overrides.items()}
                self.parent.annotate(trial.run_id, tags, {} if trial.usd is None else {"usd": trial.usd})
        if best and best.run_id and self.tracking["log_model"] and ended:
            self._register(best)  # last: not every server has a registry
        failed = any(trial.outcome == "failed" for trial in results.trials)
        self.parent.end("KILLED" if not ended else "FAILED" if failed else "FINISHED")

    def _register(self, best: Trial) -> None:
        text = json.loads((self.tokenized / "meta.json").read_text(encoding="utf-8"))["text"]
        name = f"{self.tracking['experiment']}-{Path(self.settings['data']['path']).name}"
        name = re.sub("[/:]", "-", name)  # which MLflow refuses
        self.parent.register(best.run_id, self.folder / str(best.number) / BEST_MODEL, text, name, "sweep-winner")

    def _share_view(self, metric: str, ascending: bool) -> None:
        """Let MLflow's UI show the trials beside each other: what was swept, how good they are, what they cost."""
        if not self.parent.run_id:
            return
        # A tag, not the parameter: of a group only its settings are parameters.
        columns = [f"tags.`swept.{key.lstrip('+')}`" for key in self.space.swept]
        columns += [f"metrics.`{name}`" for name in SHOWN]
        columns += ["tags.`outcome`", "tags.`reason`", "tags.`sweep_winner`"]
        key = f"sweep-{self.parent.run_id[:8]}"
        search = f"tags.`mlflow.parentRunId` = '{self.parent.run_id}'"
        self.parent.view(key, search, f"metrics.`best_{metric}`", ascending, columns)
        path = f"#/experiments/{self.parent.experiment_id}/runs?viewStateShareKey={key}"
        print(f"compare the trials: `make ui`, then http://127.0.0.1:5000/{path}", flush=True)


def or_leave(action: Callable[[], None]) -> None:
    """Run an action; end the process with its exit code if it fails, with a traceback if that was no one's mistake."""

    def worded() -> None:
        with composition_errors():
            action()

    try:
        code = exit_code(worded)
    except Exception:
        traceback.print_exc()
        code = 1
    if code:
        sys.exit(code)


def check_launcher(launcher: DictConfig) -> None:
    """Raise UserError if the launcher asked for is not installed, or has no cluster to launch on."""
    package = launcher._target_.split(".")[1] if launcher._target_.startswith("hydra_plugins.") else ""
    if package in EXTRAS and importlib.util.find_spec(f"hydra_plugins.{package}") is None:
        raise UserError(f"this launcher is not installed: pip install 'tuneledger[{EXTRAS[package]}]'")
    if launcher._target_.endswith(".SlurmLauncher") and shutil.which("srun") is None:
        raise UserError("there is no srun on this machine: start the sweep where SLURM's commands are")


def check_folders(hydra: DictConfig) -> None:
    """Raise UserError for settings of Hydra's under which a sweep's trials would not be found."""
    if OmegaConf.to_container(hydra.sweep, resolve=False)["subdir"] != "${hydra.job.num}":
        raise UserError("hydra.sweep.subdir is set: leave it out, trials are known by their number")
    if hydra.output_subdir != ".hydra":
        raise UserError(f"hydra.output_subdir = {hydra.output_subdir}: leave it out, trials are read back from .hydra")
    if hydra.sweeper.get("max_batch_size") is not None:
        raise UserError(
            "hydra.sweeper.max_batch_size is set: leave it out, a failed trial would end the sweep with its batch; "
            "how many run at a time is the launcher's to say"
        )


def check_swept(space: Space) -> None:
    """Raise UserError for a swept setting of the data, which all trials share, or of processes, see `check_alone`."""
    for key in space.swept:
        if key.lstrip("+") in ("trainer.devices", "trainer.num_nodes"):
            raise UserError(f"{key} cannot be swept: a trial trains on one device")
        if re.split("[.@]", key.lstrip("+"))[0] in ("data", "tokenizer"):
            raise UserError(
                f"{key} cannot be swept: all trials train on what `dvc repro` tokenized. Queue experiments instead: "
                f"dvc exp run --queue -S {key}=..."
            )


def check_alone(trainer: DictConfig) -> None:
    """Raise UserError for a trial on several devices: its further processes would each start the sweep anew."""
    for name in ("devices", "num_nodes"):
        if trainer[name] != 1:
            raise UserError(f"trainer.{name} = {trainer[name]}: a sweep's trials train on one device each; set 1")
    process_number(devices=1, num_nodes=1)  # raises if several were started


def check_composes(config: DictConfig, space: Space, loader: Any) -> None:
    """Raise UserError for a swept key or option that there is not: of a group each option is tried, else one value."""
    check_alone(config.trainer)
    tried = [f"{key}={interval.low}" for key, interval in space.intervals.items()]
    for key, values in space.choices.items():
        group = (conf_dir() / key.lstrip("+")).is_dir()
        tried += [f"{key}={value}" for value in (values if group else values[:1])]
    with composition_errors():
        try:
            for override in tried:
                check_alone(loader.load_sweep_config(config, [*space.fixed, override]).trainer)
        except Exception:
            GlobalHydra.instance().clear()  # what turns this into a hint composes conf/ itself
            raise


def sweep_identity(given: list[str], sweeper: dict[str, Any], settings: dict[str, Any], tokenized: Path) -> str:
    """Digest of all that a sweep's trials follow from. How they are launched, tracked and priced is not part of it.

    Args:
        given: overrides of the command line.
        sweeper: the section hydra.sweeper.
        settings: composed of them.
        tokenized: the data's folder.
    """
    given = [text for text in given if re.split("[.=/@]", text.lstrip("+~"))[0] not in APART]
    results = {key: value for key, value in settings.items() if key not in APART}
    options = {  # other options may be swept than those in the settings
        name: digest for name, digest in file_digests(conf_dir()).items() if name.partition("/")[0] not in APART
    }
    return run_key([given, sweeper, results, options], file_digests(tokenized))


def claim_folder(config: DictConfig, identity: str) -> SweepFolder:
    """Find or make the sweep's folder."""
    given = any(override.startswith("hydra.sweep.dir=") for override in config.hydra.overrides.hydra)
    path = Path(config.hydra.sweep.dir).resolve()
    command = f"python -m tuneledger.stages.train {shlex.join(sys.argv[1:])}"
    return claim(path.parent if given else path.parents[1], path, identity, command, given=given)
