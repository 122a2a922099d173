"""Stage `train`: fine-tune on the tokenized data, keep the best epoch's model, write down how it went.

Reads data/tokenized; writes models/best and results/train/{steps,epochs}.csv, metrics.json, cost.json, run.json.

Under DVC it takes params.yaml as its whole configuration. By hand it composes conf/ itself and writes under outputs/
(or multirun/), never over DVC's files:
    python -m tuneledger.stages.train optim.lr=3e-5
    python -m tuneledger.stages.train --multirun optim.lr=1e-5,3e-5,1e-4
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tuneledger.conf import bind, compose, composition_errors, conf_dir, flatten, guard, load_yaml, plain
from tuneledger.errors import Diverged, Interrupted, UserError, exit_code
from tuneledger.learn.build import build, read_meta
from tuneledger.learn.processes import process_number, started_as_further_process
from tuneledger.ledger.provenance import file_digests, run_key, run_tags
from tuneledger.ledger.tracker import Line, Tracker, check_tracking, shared_line
from tuneledger.paths import (
    BEST_MODEL,
    PARAMS,
    TOKENIZED,
    TRAIN_RESULTS,
    code_root,
    remove,
    store_root,
    write_json,
)
from tuneledger.pipeline import ensure_tokenized
from tuneledger.sweep.trial import CHECKPOINT, UNTIL_EPOCH, run_trial

if TYPE_CHECKING:  # imports torch, for which --help need not wait
    from tuneledger.learn.fit import Fit

WEIGHT_SECTIONS = ("model", "optim", "loss", "loader", "trainer", "seed")  # what weights follow from, beside the data
UNTRAINED_SECTIONS = ("tracking", "descent", "lr_find", "conf_sha")  # what says nothing about a training


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """For imports: torch and Lightning make a million objects that all stay; looking through them takes 2 s of 9."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def train(
    config: dict[str, Any],
    tokenized: Path,
    out: Path,
    name: str,
    *,
    kind: str,
    until_epoch: int | None = None,
    line: Line | None = None,
) -> Fit:
    """Run one training from declared settings to written results.

    Args:
        config: composed settings as plain containers.
        tokenized: folder that stage `tokenize` wrote.
        out: folder under which models/best and results/train are written, once training has finished.
        name: of the tracked run.
        kind: "dvc", "hand" or "trial". The first two go on from checkpoints of equal settings, each from its own
            kind's; a trial's checkpoint lies in `out`, where it stays.
        until_epoch: pause after this epoch; no model is written then.
        line: to MLflow, shared with other runs.

    Raises:
        UserError: settings or data that cannot be trained on, or a loss that is no longer a number.
        Interrupted: a signal ended it; the same call goes on from there.
    """
    check_sections(config)
    meta = read_meta(tokenized, config)
    if not first_process(config):
        return follow(config, meta, tokenized, out, kind)
    # The tracker's process imports MLflow while this one imports torch.
    with Tracker(config["tracking"]["enabled"], line) as tracker:
        with no_garbage_collection():
            from tuneledger.learn.checkpoints import BEST, exclusive
            from tuneledger.learn.results import write_model, write_results

            module, batches = build(config, meta, tokenized)
        digests, key, folder = identify(config, tokenized, out, kind)
        with exclusive(folder):
            tracker.start(folder / "mlflow_run_id", **describe_run(config, meta, digests, key, name))
            try:
                fit, cost = measured_fit(config, meta, module, batches, folder, tracker, until_epoch)
                write_results(out / TRAIN_RESULTS, fit, cost, config["trainer"]["select"], batches, folder)
                if fit.ended:
                    write_model(folder / BEST, tokenized / "tokenizer", out / BEST_MODEL)
                # Before the tracker's process looks at the folder, which must not change under its hands.
                identity = {"mlflow_run_id": tracker.wait_for_run_id(), "run_key": key}
                write_json(out / TRAIN_RESULTS / "run.json", identity)
                store(tracker, config, fit.epochs[fit.best_epoch - 1], cost, out)
                # Of a sweep's models only the winner's is stored, at its end.
                if kind != "trial" and config["tracking"]["log_model"]:
                    tracker.model(out / BEST_MODEL, meta["text"])
            except (Interrupted, KeyboardInterrupt):
                tracker.end("KILLED")
                raise
            tracker.end("FINISHED", wait=line is None)
            if kind != "trial":
                remove(folder)
    return fit


def first_process(config: dict[str, Any]) -> bool:
    """Whether this process of a training is the one that writes; UserError as for `process_number`."""
    names = ("devices", "num_nodes")
    section = {name: value for name, value in config["trainer"].items() if name in names}
    return process_number(**bind(process_number, "trainer", section)) == 0


def follow(config: dict[str, Any], meta: dict[str, Any], tokenized: Path, out: Path, kind: str) -> Fit:
    """Train along as a further process of a training: compute, and write, track and print nothing."""
    with no_garbage_collection():
        from tuneledger.learn.fit import fit

        module, batches = build(config, meta, tokenized)
    _, _, folder = identify(config, tokenized, out, kind)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            return fit(module, batches, folder, config["seed"], _ignore, _ignore, **config["trainer"])
    except (Interrupted, Diverged) as end:
        if isinstance(end, Interrupted) and not end.saved:
            raise
        sys.exit(0)  # all processes end, and the first one says so; Lightning would kill it if this one failed


def _ignore(row: dict[str, float]) -> None:
    pass


def identify(config: dict[str, Any], tokenized: Path, out: Path, kind: str) -> tuple[dict[str, str], str, Path]:
    """The digests of what a training starts from, the key of the run, and its checkpoint folder."""
    from tuneledger.text.source import weight_digests

    digests = file_digests(tokenized) | weight_digests(config["model"]["path"])
    key = run_key({section: config[section] for section in WEIGHT_SECTIONS}, digests)
    return digests, key, out / CHECKPOINT if kind == "trial" else store_root() / "checkpoints" / f"{key}-{kind}"


def check_sections(config: dict[str, Any]) -> None:
    """Raise UserError for a section that no stage reads, or a tracking section that cannot be used."""
    unknown = set(config) - {*WEIGHT_SECTIONS, *UNTRAINED_SECTIONS, "data", "tokenizer", "cost"}
    if unknown:
        raise UserError(f"unknown key {sorted(unknown)[0]} in conf/config.yaml: no stage reads it")
    check_tracking(**bind(check_tracking, "tracking", config["tracking"]))


def describe_run(
    config: dict[str, Any], meta: dict[str, Any], digests: dict[str, str], key: str, name: str
) -> dict[str, Any]:
    """What the tracker needs to open the run: parameters, tags, the data's lineage."""
    tracking = config["tracking"]
    datasets = [
        {
            "name": Path(config["data"]["path"]).name,
            "digest": digests[f"{split}.arrow"][:16],
            "source": config["data"]["path"],
            "rows": counts["rows"],
            "context": {"train": "training", "validation": "validation", "test": "test"}[split],
        }
        for split, counts in meta["splits"].items()
    ]
    return {
        "uri": tracking["uri"],
        "experiment": tracking["experiment"],
        "system_metrics": tracking["system_metrics"],
        "name": name,
        "params": flatten({name: value for name, value in config.items() if name not in UNTRAINED_SECTIONS}),
        "tags": run_tags(code_root(), key, config["conf_sha"]),
        "datasets": datasets,
    }


def measured_fit(
    config: dict[str, Any],
    meta: dict[str, Any],
    module: Any,
    batches: Any,
    folder: Path,
    tracker: Tracker,
    until_epoch: int | None,
) -> tuple[Fit, dict[str, Any]]:
    """Train with the table on the terminal and the figures on their way to MLflow; also what it took."""
    from tqdm import tqdm

    from tuneledger.learn.encoder import count_parameters
    from tuneledger.learn.fit import fit
    from tuneledger.learn.history import peak_memory_gib
    from tuneledger.learn.packed.compiler import kernels
    from tuneledger.ledger.measure import hardware, training_cost
    from tuneledger.show.console import epoch_header, epoch_row

    def on_step(row: dict[str, float]) -> None:
        tracker.metrics({"train_step_loss": row["loss"], "lr": row["lr"]}, int(row["step"]))

    def on_epoch(row: dict[str, float]) -> None:
        tqdm.write(epoch_row(row))
        sys.stdout.flush()
        tracker.metrics({k: v for k, v in row.items() if k != "step"}, int(row["step"]))

    print(epoch_header(len(batches.validation), *batches.majority()), flush=True)
    result = fit(module, batches, folder, config["seed"], on_step, on_epoch, until_epoch, **config["trainer"])
    encoder = module.model.base_model.config
    cost = training_cost(
        result.totals,
        count_parameters(module.model),
        tokens_per_epoch=meta["splits"]["train"]["tokens"],
        epochs=len(result.epochs),
        layers=encoder.num_hidden_layers,
        trained_layers=encoder.num_hidden_layers - config["model"]["frozen_layers"],
        hidden_size=encoder.hidden_size,
    )
    extra = {"peak_memory_gib": peak_memory_gib(), "precision": result.precision, "hardware": hardware()}
    on_cpu = config["trainer"]["accelerator"] == "cpu" or extra["hardware"]["gpu"] is None
    # Dropout's masks are others with them, and times too.
    return result, {**cost, **extra, "compiled_kernels": on_cpu and kernels() is not None}


def store(tracker: Tracker, config: dict[str, Any], best: dict[str, float], cost: dict[str, Any], out: Path) -> None:
    """Send the finished training to MLflow: kept scores, cost, record, settings."""
    figures = {f"best_{name}": value for name, value in best.items()}
    figures |= {f"cost/{name}": value for name, value in cost.items() if isinstance(value, int | float)}
    tracker.metrics(figures, int(best["step"]))
    tracker.artifact(out / TRAIN_RESULTS, "train")
    tracker.text(OmegaConf.to_yaml(OmegaConf.create(config)), f"config/{PARAMS}")
    for file in (code_root() / "dvc.yaml", code_root() / "dvc.lock"):
        if file.exists():
            tracker.artifact(file, "config")


def job(config: DictConfig) -> float:
    """What Hydra calls: once for a run, once for each job of a sweep.

    Returns:
        the kept epoch's value of trainer.select.metric, its val_loss where that is "epoch"; of a sweep's job the
        lowest validation loss, by which a search goes.
    """
    guard()
    run = HydraConfig.get()
    settings = plain(config)
    if os.environ.get("DVC_STAGE"):
        return selected(
            settings, train(settings, TOKENIZED, Path(), os.environ.get("DVC_EXP_NAME") or "repro", kind="dvc")
        )
    until_epoch = settings.pop("until_epoch", None)
    out = Path(run.runtime.output_dir)
    name = ", ".join(override for override in run.overrides.task if not override.startswith(UNTIL_EPOCH))[:200]
    tokenized = code_root() / TOKENIZED
    if first_process(settings) if run.mode == RunMode.RUN else run.job.num == 0:
        tell_differences(settings)
    if run.mode == RunMode.MULTIRUN:
        line = shared_line() if settings["tracking"]["enabled"] else None
        one = partial(train, settings, tokenized, out, name, kind="trial", until_epoch=until_epoch, line=line)
        gc.collect()  # Lightning's trainer and module hold each other, and with them an earlier job's memory
        return run_trial(out, one, until_epoch)
    ensure_tokenized()
    return selected(settings, train(settings, tokenized, out, name or "train", kind="hand"))


def selected(config: dict[str, Any], fit: Fit) -> float:
    metric = config["trainer"]["select"]["metric"]
    return fit.epochs[fit.best_epoch - 1]["val_loss" if metric == "epoch" else metric]


def tell_differences(config: dict[str, Any]) -> None:
    """Say how this run's settings differ from params.yaml, on which `dvc repro` would train."""
    file = code_root() / PARAMS
    if not file.exists():
        return
    tracked = flatten(load_yaml(file))
    for key, value in flatten(config).items():
        if key != "conf_sha" and tracked.get(key) != value:
            print(f"{key} = {value} (params.yaml: {tracked.get(key)})", flush=True)


@hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")
def app(config: DictConfig) -> float | None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        try:
            return job(config)
        except Interrupted as stop:
            sys.exit(128 + stop.signum)  # ends the whole sweep, where an Exception would end one job
    code = exit_code(lambda: job(config))
    if code:
        sys.exit(code)
    return None


def help_text(overrides: list[str]) -> str:
    """What can be set, and what these overrides make of it. Hydra's own help takes a second to list the groups."""
    groups = {
        folder.name: ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        for folder in sorted(conf_dir().iterdir())
        if folder.is_dir() and folder.name != "hydra"
    }
    options = "\n".join(f"  {name + '=':<12}{names}" for name, names in groups.items())
    settings = OmegaConf.to_yaml(OmegaConf.create(compose(overrides)))
    return (
        f"{__doc__.strip()}\n\nGroups, one option of each:\n{options}\n\n"
        f"Settings, each to be overridden as section.key=value:\n\n{settings}\n"
        "More: --cfg job, --info defaults, --multirun, --hydra-help."
    )


def main() -> None:
    if started_as_further_process():
        sys.argv = without_folder(sys.argv)
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        overrides = [argument for argument in arguments if not argument.startswith("-")]
        sys.exit(exit_code(lambda: print(help_text(overrides))))
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors through to the one place that words them
    sys.exit(exit_code(run_app))


def without_folder(arguments: list[str]) -> list[str]:
    """A command line with which Hydra makes no folder and no log: those are the first process's."""
    last = max((n for n, text in enumerate(arguments) if "=" in text and text[0] != "-"), default=len(arguments) - 1)
    extra = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=disabled"]
    return [*arguments[: last + 1], *extra, *arguments[last + 1 :]]


def run_app() -> None:
    with composition_errors():
        app()


if __name__ == "__main__":
    main()
