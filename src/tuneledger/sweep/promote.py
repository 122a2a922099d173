"""Write a sweep's winner into conf/, where `dvc repro` takes it from.

    python -m tuneledger.sweep.promote multirun/2026-11-24/09-30-00 [--name NAME]

Makes conf/experiment/NAME.yaml (NAME is "winner" unless given) and selects it in conf/config.yaml.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from tuneledger.conf import compose, conf_dir, flatten, load_yaml
from tuneledger.errors import UserError, exit_code
from tuneledger.paths import remove, write_text
from tuneledger.sweep.folder import STATE
from tuneledger.sweep.trial import overrides

SELECTED = re.compile(r"^(  - experiment: *)\S+", re.MULTILINE)
HEADER = "# @package _global_\n# The winner of "
UNRELATED = ("conf_sha", "tracking", "cost", "until_epoch")  # may differ: no result follows from them


def promote(folder: Path, name: str) -> Path:
    """Write conf/experiment/<name>.yaml so that it composes to the winner's settings, and select it.

    Args:
        folder: a finished sweep's.
        name: of the experiment.

    Returns:
        the file written.

    Raises:
        UserError: no finished sweep, no winner, a name that cannot be one, or a conf/ that has changed since. Then
            conf/ is as it was.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise UserError(f"--name {name}: take letters, digits and underscores, beginning with a letter")
    job = folder / str(winning_trial(folder))
    config = conf_dir() / "config.yaml"
    selected = config.read_text(encoding="utf-8")
    if not SELECTED.search(selected):
        raise UserError(f"{config} has no line `  - experiment: ...` to select the winner with")
    base = base_experiment(job)
    target = conf_dir() / "experiment" / f"{name}.yaml"
    before = target.read_text(encoding="utf-8") if target.exists() else None
    taken = UserError(f"the sweep builds on the experiment {name}: choose another --name")
    if base == name:
        raise taken
    if before is not None and not before.startswith(HEADER):
        raise UserError(f"{target} is there, written by hand: choose another --name")
    write_text(target, experiment_yaml(overrides(job), base, folder))
    try:
        different = differences(compose([f"experiment={name}"]), load_yaml(job / ".hydra" / "config.yaml"))
        if different:
            raise UserError(f"conf/ has changed since the sweep: {', '.join(different)}; undo that, or sweep again")
    except BaseException as error:
        remove(target) if before is None else write_text(target, before)
        if isinstance(error, RecursionError):  # Hydra follows a ring of experiments until the stack is full
            raise taken from error
        raise
    write_text(config, SELECTED.sub(rf"\g<1>{name}", selected, count=1))
    return target


def winning_trial(folder: Path) -> int:
    """The number that a finished sweep's state names."""
    if not (folder / STATE).exists():
        raise UserError(f"{folder} is no sweep: give the folder that it named, such as multirun/2026-11-24/09-30-00")
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if not state["finished"]:
        raise UserError(f"the sweep in {folder} is not finished: the same command goes on with it")
    if state["winner"] is None:
        raise UserError(f"no trial of the sweep in {folder} finished, so there is no winner")
    return state["winner"]


def base_experiment(job: Path) -> str | None:
    """The experiment that a job was composed with, by the record Hydra keeps of its groups."""
    return OmegaConf.load(job / ".hydra" / "hydra.yaml").hydra.runtime.choices.get("experiment")


def experiment_yaml(asked: list[str], base: str | None, folder: Path) -> str:
    """The file that gives these overrides a name.

    Args:
        asked: overrides of the job.
        base: the experiment that it was composed with.
        folder: the sweep's.
    """
    defaults: list[Any] = [] if base is None else [base]
    values = OmegaConf.create({})
    for override in OverridesParser.create().parse_overrides(asked):
        key = override.key_or_group
        if key == "experiment":
            continue
        if override.is_delete():
            raise UserError(f"{override.input_line}: a deletion cannot be written into conf/")
        if (conf_dir() / key).is_dir():
            defaults.append({f"override /{key}": override.value()})
        else:
            OmegaConf.update(values, key, override.value(), force_add=True)
    text = f"{HEADER}{'/'.join(folder.resolve().parts[-3:])}.\n"
    for part in ({"defaults": defaults} if defaults else {}, values):
        text += OmegaConf.to_yaml(OmegaConf.create(part)) if part else ""
    return text


def differences(new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """Settings in which conf/ with the new experiment is not what the winner was trained with."""
    now, then = flatten(new), flatten(old)
    keys = [key for key in {**now, **then} if key.partition(".")[0] not in UNRELATED]
    return [f"{key} = {now.get(key)} (then: {then.get(key)})" for key in keys if now.get(key) != then.get(key)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tuneledger.sweep.promote", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a finished sweep, such as multirun/2026-11-24/09-30-00")
    parser.add_argument("--name", default="winner", help="of the experiment in conf/experiment (default: winner)")
    arguments = parser.parse_args()

    def run() -> None:
        target = promote(arguments.folder, arguments.name)
        print(f"wrote {target} and selected it in {conf_dir() / 'config.yaml'}; `dvc repro` trains it")

    sys.exit(exit_code(run))


if __name__ == "__main__":
    main()
