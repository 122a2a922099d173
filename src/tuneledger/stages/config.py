"""Stage `config`: compose conf/ into params.yaml, unless somebody overrode the present conf/ on purpose.

Reads conf/, writes params.yaml. Alone: `python -m tuneledger.stages.config`; with `--check` it only says
whether params.yaml is what conf/ composes to, and exits 1 if not.

`dvc repro` does not compose and `dvc exp run` does. The fingerprint conf_sha inside params.yaml tells the two
apart: same fingerprint but other values means an override (`dvc exp run -S`, or a hand edit) that must be kept;
another fingerprint means that conf/ was edited since.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from omegaconf import OmegaConf

from tuneledger.conf import bind, compose, flatten, load_yaml
from tuneledger.errors import UserError
from tuneledger.ledger.price import price
from tuneledger.paths import PARAMS, code_root, write_text
from tuneledger.stages import run_stage

ABSENT = "(absent)"


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, each with its (old, new) value; conf_sha itself left out."""
    left, right = flatten(old), flatten(new)
    keys = [key for key in {**left, **right} if key != "conf_sha"]
    pairs = {key: (left.get(key, ABSENT), right.get(key, ABSENT)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def update(old: dict[str, Any] | None, new: dict[str, Any], exp_name: str | None) -> bool:
    """Whether params.yaml must be written anew; prints what is kept or changed.

    Args:
        old: params.yaml as it is, None if there is none.
        new: conf/ as it composes now.
        exp_name: name of the DVC experiment that is running, None outside one.

    Raises:
        UserError: inside an experiment, params.yaml was composed from another conf/ than this one.
    """
    if old is None:
        print("params.yaml: written from conf/")
        return True
    changed = differences(old, new)
    if old.get("conf_sha") == new["conf_sha"]:
        for key, (kept, composed) in changed.items():
            print(f"override kept: {key} = {kept} (conf/: {composed})")
        return False
    if exp_name:
        raise UserError(
            f"experiment {exp_name}: params.yaml was not composed from this conf/ "
            f"({', '.join(changed) or 'a new file in conf/'}): "
            "`git add conf` before queueing, and leave out --no-hydra"
        )
    for key, (before, after) in changed.items():
        print(f"params.yaml: {key} = {after} (was {before})")
    return True


def check(new: dict[str, Any]) -> None:
    """Refuse what would only come to light when it is in the way: a path DVC then misses, a price after training."""
    path = (new.get("data") or {}).get("path")
    if not isinstance(path, str) or not path:
        raise UserError(f"data.path = {path}: must name the folder with the data, as in data/raw/twins")
    if not (code_root() / path).exists():
        raise UserError(f"data.path = {path}: no such file or folder")
    bind(price, "cost", new["cost"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Compose conf/ into params.yaml.")
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 if they differ")
    only_compare = parser.parse_args().check
    new = compose()
    old = load_yaml(PARAMS) if PARAMS.exists() else None
    if only_compare:
        changed = differences(old or {}, new)
        for key, (kept, composed) in changed.items():
            print(f"{key}: params.yaml has {kept}, conf/ composes to {composed}")
        sys.exit(1 if changed or old is None or old.get("conf_sha") != new["conf_sha"] else 0)
    if update(old, new, os.environ.get("DVC_EXP_NAME")):
        check(new)
        write_text(PARAMS, OmegaConf.to_yaml(OmegaConf.create(new)))


if __name__ == "__main__":
    run_stage(main)
