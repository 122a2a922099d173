"""Stage `train`: fine-tune on the tokenized data, keep the best epoch's model, write down how it went.

Reads data/tokenized; writes models/best and results/train/{steps,epochs}.csv, metrics.json, cost.json, run.json.

Under DVC it takes params.yaml as its whole configuration. By hand it composes conf/ itself and writes under outputs/
(or multirun/), never over DVC's files:
    python -m tuneledger.stages.train optim.lr=3e-5
    python -m tuneledger.stages.train --multirun optim.lr=1e-5,3e-5,1e-4
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tuneledger.conf import bind, compose, composition_errors, conf_dir, flatten, guard, load_yaml, plain
from tuneledger.errors import Interrupted, UserError, exit_code
from tuneledger.ledger.provenance import file_digests, run_key, run_tags
from tuneledger.ledger.tracker import Tracker, check_tracking
from tuneledger.paths import (
    BEST_MODEL,
    PARAMS,
    TOKENIZED,
    TRAIN_RESULTS,
    code_root,
    remove,
    store_root,
    write_json,
    write_text,
)

WEIGHT_SECTIONS = ("model", "optim", "loader", "trainer", "seed")  # what weights follow from, beside the data


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """For imports: torch and Lightning make a million objects that all stay; looking through them takes 2 s of 9."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def train(config: dict[str, Any], tokenized: Path, out: Path, name: str, kind: str) -> float:
    """Run one training from declared settings to written results.

    Args:
        config: composed settings as plain containers.
        tokenized: folder that stage `tokenize` wrote.
        out: folder under which models/best and results/train are written, once training has finished.
        name: of the tracked run.
        kind: "dvc" or "hand"; trainings of one kind go on from each other's checkpoints.

    Returns:
        the kept epoch's value of trainer.select.metric; its val_loss where that is "epoch".

    Raises:
        UserError: settings or data that cannot be trained on, or a loss that is no longer a number.
        Interrupted: a signal ended it; the same call goes on from there.
    """
    check_sections(config)
    meta = read_meta(tokenized, config)
    # The tracker's process imports MLflow while this one imports torch.
    with Tracker(config["tracking"]["enabled"]) as tracker:
        with no_garbage_collection():
            from tuneledger.learn.checkpoints import BEST, exclusive
            from tuneledger.learn.results import write_model, write_results

        digests = file_digests(tokenized)
        key = run_key({section: config[section] for section in WEIGHT_SECTIONS}, digests)
        with no_garbage_collection():
            module, batches = build(config, meta, tokenized)
        folder = store_root() / "checkpoints" / f"{key}-{kind}"
        with exclusive(folder):
            tracker.start(folder / "mlflow_run_id", **describe_run(config, meta, digests, key, name))
            try:
                fit, cost = measured_fit(config, meta, module, batches, folder, tracker)
                write_results(out / TRAIN_RESULTS, fit, cost, config["trainer"]["select"], batches.majority()[1])
                write_model(folder / BEST, tokenized / "tokenizer", out / BEST_MODEL)
                best = fit.epochs[fit.best_epoch - 1]
                store(tracker, config, meta, best, cost, out)
            except (Interrupted, KeyboardInterrupt):
                tracker.end("KILLED")
                raise
            tracker.end("FINISHED")
            write_json(out / TRAIN_RESULTS / "run.json", {"mlflow_run_id": tracker.run_id, "run_key": key})
            remove(folder)
    metric = config["trainer"]["select"]["metric"]
    return best["val_loss" if metric == "epoch" else metric]


def check_sections(config: dict[str, Any]) -> None:
    """Raise UserError for a section that no stage reads, or a tracking section that cannot be used."""
    unknown = set(config) - {*WEIGHT_SECTIONS, "data", "tokenizer", "tracking", "cost", "conf_sha"}
    if unknown:
        raise UserError(f"unknown key {sorted(unknown)[0]} in conf/config.yaml: no stage reads it")
    check_tracking(**bind(check_tracking, "tracking", config["tracking"]))


def read_meta(tokenized: Path, config: dict[str, Any]) -> dict[str, Any]:
    """meta.json of the tokenized data, if it was made with the data and tokenizer sections of `config`."""
    file = tokenized / "meta.json"
    if not file.exists():
        raise UserError(f"{tokenized} is missing: run `dvc repro tokenize` first")
    meta = json.loads(file.read_text(encoding="utf-8"))
    for section in ("data", "tokenizer"):
        made, asked = flatten(meta[section]), flatten(config[section])
        different = [key for key in {**made, **asked} if made.get(key) != asked.get(key)]
        if different:
            changes = ", ".join(
                f"{section}.{key}={asked.get(key)} (there: {made.get(key)})" for key in sorted(different)
            )
            raise UserError(
                f"{tokenized} was made with other settings than {changes}: "
                "put them into conf/ and run `dvc repro tokenize`, or use `dvc exp run -S`"
            )
    return meta


def build(config: dict[str, Any], meta: dict[str, Any], tokenized: Path) -> tuple[Any, Any]:
    """The Lightning module and data module; settings are checked before any weight is loaded."""
    import torch
    from transformers import AutoTokenizer

    from tuneledger.learn.datamodule import Batches
    from tuneledger.learn.encoder import load_encoder
    from tuneledger.learn.fit import fit
    from tuneledger.learn.module import Classifier
    from tuneledger.learn.optimizer import check_optim, make_optimizer
    from tuneledger.text.batches import TokenizedSplit

    check_seed(config["seed"])
    bind(fit, "trainer", config["trainer"])
    check_optim(**bind(make_optimizer, "optim", config["optim"]))
    tokenizer = AutoTokenizer.from_pretrained(tokenized / "tokenizer", local_files_only=True)
    batches = Batches(
        TokenizedSplit(tokenized / "train.arrow"),
        TokenizedSplit(tokenized / "validation.arrow"),
        meta["labels"],
        tokenizer.pad_token_id,
        meta["tokenizer"]["max_length"],
        config["seed"],
        **bind(Batches.__init__, "loader", config["loader"]),
    )
    torch.manual_seed(config["seed"])  # before the head's weights are drawn
    encoder = load_encoder(meta["labels"], **bind(load_encoder, "model", config["model"]))
    return Classifier(encoder, config["optim"]), batches


def check_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(f"seed = {seed}: give a whole number from 0 to below 2**32")


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
        "params": flatten({name: value for name, value in config.items() if name not in ("tracking", "conf_sha")}),
        "tags": run_tags(code_root(), key, config["conf_sha"]),
        "datasets": datasets,
    }


def measured_fit(
    config: dict[str, Any], meta: dict[str, Any], module: Any, batches: Any, folder: Path, tracker: Tracker
) -> tuple[Any, dict[str, Any]]:
    """Train with the table on the terminal and the figures on their way to MLflow; also what it took."""
    from tqdm import tqdm

    from tuneledger.learn.encoder import count_parameters
    from tuneledger.learn.fit import fit
    from tuneledger.learn.history import peak_memory_gib
    from tuneledger.ledger.measure import hardware, training_cost
    from tuneledger.show.console import epoch_header, epoch_row

    def on_step(row: dict[str, float]) -> None:
        tracker.metrics({"train_step_loss": row["loss"], "lr": row["lr"]}, int(row["step"]))

    def on_epoch(row: dict[str, float]) -> None:
        tqdm.write(epoch_row(row))
        sys.stdout.flush()
        tracker.metrics({k: v for k, v in row.items() if k != "step"}, int(row["step"]))

    print(epoch_header(len(batches.validation), *batches.majority()), flush=True)
    result = fit(module, batches, folder, config["seed"], on_step, on_epoch, **config["trainer"])
    encoder = module.model.config
    cost = training_cost(
        result.totals,
        count_parameters(module.model),
        tokens_per_epoch=meta["splits"]["train"]["tokens"],
        epochs=len(result.epochs),
        layers=encoder.num_hidden_layers,
        hidden_size=encoder.hidden_size,
    )
    extra = {"peak_memory_gib": peak_memory_gib(), "precision": result.precision, "hardware": hardware()}
    return result, {**cost, **extra}


def store(
    tracker: Tracker,
    config: dict[str, Any],
    meta: dict[str, Any],
    best: dict[str, float],
    cost: dict[str, Any],
    out: Path,
) -> None:
    """Send the finished training to MLflow: kept scores, cost, record, settings, model."""
    figures = {f"best_{name}": value for name, value in best.items()}
    figures |= {f"cost/{name}": value for name, value in cost.items() if isinstance(value, int | float)}
    tracker.metrics(figures, int(best["step"]))
    tracker.artifact(out / TRAIN_RESULTS, "train")
    tracker.text(OmegaConf.to_yaml(OmegaConf.create(config)), f"config/{PARAMS}")
    if os.environ.get("DVC_STAGE"):
        tracker.artifact(code_root() / "dvc.yaml", "config")
        tracker.artifact(code_root() / "dvc.lock", "config")
    if config["tracking"]["log_model"]:
        tracker.model(out / BEST_MODEL, meta["text"])


def job(config: DictConfig) -> float:
    """What Hydra calls: once for a run, once for each job of a sweep."""
    guard()
    run = HydraConfig.get()
    settings = plain(config)
    if os.environ.get("DVC_STAGE"):
        return train(settings, TOKENIZED, Path(), os.environ.get("DVC_EXP_NAME") or "repro", "dvc")
    out = Path(run.runtime.output_dir)
    tell_differences(settings)
    name = ", ".join(run.overrides.task) or "train"
    try:
        return train(settings, code_root() / TOKENIZED, out, name[:200], "hand")
    except Interrupted:
        raise
    except Exception as error:
        # A sweep goes on without this job; its table gives the reason.
        write_text(out / "error.txt", f"{error}\n")
        raise


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
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        overrides = [argument for argument in arguments if not argument.startswith("-")]
        sys.exit(exit_code(lambda: print(help_text(overrides))))
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors through to the one place that words them
    sys.exit(exit_code(run_app))


def run_app() -> None:
    with composition_errors():
        app()


if __name__ == "__main__":
    main()
