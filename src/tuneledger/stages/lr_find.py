"""Stage `lr_find`: which learning rates are worth a sweep, from a ramp of the rate that takes under a minute.

Reads data/tokenized; writes results/lr_find/{curve.csv,summary.json}, reports/lr_find.html and reports/lr_find/.

Under DVC it takes params.yaml as its whole configuration. By hand it composes conf/ itself and writes under
outputs/lr_find/, never over DVC's files:
    python -m tuneledger.stages.lr_find optim.weight_decay=0
    python -m tuneledger.stages.lr_find --sweep
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tuneledger.conf import bind, compose, flatten, overrides, read_params
from tuneledger.errors import UserError
from tuneledger.judge.lr_range import Range, find_range, log_spaced, smooth
from tuneledger.judge.stability import chance_loss
from tuneledger.learn.build import build, read_meta
from tuneledger.paths import TOKENIZED, code_root, require, write_json, write_text
from tuneledger.pipeline import ensure_tokenized
from tuneledger.publish import publish
from tuneledger.show.lr_find import RangeTest, html, pictures, range_text, rate, section
from tuneledger.show.sections import data_name, model_name
from tuneledger.stages import run_stage

RESULTS = Path("results/lr_find")
BY_HAND = Path("outputs/lr_find")
PAGE = "lr_find.html"
SECTIONS = ("data", "tokenizer", "model", "optim", "loss", "loader", "trainer", "lr_find", "seed")
SWEPT = 4  # rates in the sweep
DIGITS = 6  # significant ones, of figures on disk


def find(config: dict[str, Any], tokenized: Path, asked: list[str]) -> RangeTest:
    """Run the ramp and read it.

    Args:
        config: composed settings.
        tokenized: folder that stage `tokenize` wrote.
        asked: Hydra's overrides that turn conf/ into `config`; the sweep gets them too.
    """
    from tuneledger.explore.ramp import check_ramp, judging, ramp  # imports torch, for which --help need not wait

    settings = bind(ramp, "lr_find", config["lr_find"])
    check_ramp(**settings)
    module, batches = build(config, read_meta(tokenized, config), tokenized)
    labels = np.concatenate([batch["labels"] for batch in judging(batches)])
    chance = chance_loss(labels)
    record = ramp(module, batches, config["seed"], config["trainer"], **settings)
    curve = pd.DataFrame(record.steps)
    rates, losses = curve["lr"].to_numpy(), curve["loss"].to_numpy()
    found = find_range(rates, losses, record.start, chance)
    names = flatten(config)
    return RangeTest(
        curve=curve.assign(smoothed=smooth(rates, losses, record.start)),
        model=model_name(names),
        data=data_name(names),
        seed=config["seed"],
        batch_size=config["loader"]["batch_size"] * config["trainer"]["accumulate_grad_batches"],
        judging_rows=len(labels),
        **settings,
        start=record.start,
        chance=chance,
        **vars(found),
        command=sweep_command(found, asked),
    )


def sweep_command(found: Range, asked: list[str]) -> str:
    """The command that sweeps over the range with the settings of the ramp, "" without a range."""
    if found.low is None or found.high is None:
        return ""
    rates = ",".join(rate(value) for value in log_spaced(found.low, found.high, SWEPT))
    kept = [override for override in asked if not override.lstrip("+~").startswith(("optim.lr=", "lr_find"))]
    return f"python -m tuneledger.stages.train --multirun {shlex.join([f'optim.lr={rates}', *kept])}"


def write_results(folder: Path, test: RangeTest) -> None:
    summary = {key: _short(value) for key, value in vars(test).items() if key != "curve"}
    write_text(folder / "curve.csv", test.curve.to_csv(index=False, float_format=f"%.{DIGITS}g"))
    write_json(folder / "summary.json", summary)


def read_results(folder: Path) -> RangeTest:
    """The files of a ramp as values."""
    summary = json.loads(require(folder / "summary.json").read_text(encoding="utf-8"))
    return RangeTest(curve=pd.read_csv(require(folder / "curve.csv")), **summary)


def main() -> None:
    arguments = _arguments()
    by_hand = not os.environ.get("DVC_STAGE")
    root = code_root() if by_hand else Path()
    folder = root / (BY_HAND if by_hand else RESULTS)
    if by_hand:
        config, asked = compose(arguments.overrides), arguments.overrides
        ensure_tokenized()
    else:
        config = read_params(*SECTIONS)
        asked = overrides(config)
    write_results(folder, find(config, root / TOKENIZED, asked))
    test = read_results(folder)
    if by_hand:
        write_text(folder / PAGE, html(test))
        print(f"page: {folder / PAGE}")
    else:
        publish("lr_find", html(test), section(test), pictures(test))
    print(f"learning rates to try: {range_text(test) or f'none, {test.reason}'}", flush=True)
    if test.command:
        print(test.command, flush=True)
    if arguments.sweep:
        _sweep(test)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tuneledger.stages.lr_find",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sweep", action="store_true", help=f"then train at {SWEPT} rates of the range")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ from conf/")
    return parser.parse_intermixed_args()


def _sweep(test: RangeTest) -> None:
    """Become the sweep's process, which then has this terminal.

    Raises:
        UserError: there is no range to sweep over.
    """
    if not test.command:
        raise UserError(f"no sweep without a range: {test.reason}")
    os.execv(sys.executable, [sys.executable, *shlex.split(test.command)[1:]])


def _short(value: Any) -> Any:
    """Significant digits above any difference between machines."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


if __name__ == "__main__":
    run_stage(main)
