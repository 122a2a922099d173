"""Stage `report`: everything known about the run on one page, its price, and the final figures to MLflow.

Reads results/ and params.yaml; writes reports/report.html, report.md, cost.json and figures/. Alone:
`python -m tuneledger.stages.report`. No other stage depends on a price.

With --illustrated, as pictures/dvc.yaml runs it, it writes reports/illustrated.html alone: the same page with the
sections that the picture stages left in reports/.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from tuneledger.conf import bind, compose, read_params
from tuneledger.errors import UserError
from tuneledger.ledger.price import price
from tuneledger.ledger.provenance import git_commit
from tuneledger.ledger.tracker import check_tracking
from tuneledger.paths import (
    AUDIT,
    EVAL_RESULTS,
    REPORTS,
    TRAIN_RESULTS,
    code_root,
    replacing,
    require,
    write_json,
    write_text,
)
from tuneledger.show.report import html, pictures, short
from tuneledger.show.results import Results
from tuneledger.show.sections import price_text
from tuneledger.show.svg import standalone
from tuneledger.show.tables import dollars
from tuneledger.stages import run_stage

_CONSTANTS = {"null", "true", "false", "nan", "inf"}
FIGURES = REPORTS / "figures"
ILLUSTRATED = REPORTS / "illustrated.html"
PICTURES = ("lr_find", "descent", "structure")  # stages of pictures/dvc.yaml, in the order of the page
SECTIONS = ("seed", "data", "tokenizer", "model", "optim", "loader", "trainer", "cost")


def read_results(params: dict[str, Any]) -> Results:
    """results/ as values, priced with params["cost"].

    Raises:
        UserError: a missing results file, or an unusable price card.
    """
    cost, evaluate_cost = _json(TRAIN_RESULTS / "cost.json"), _json(EVAL_RESULTS / "cost.json")
    seconds = cost["fit_seconds"] + evaluate_cost["evaluate_seconds"]
    commit, dirty = git_commit(code_root())
    return Results(
        params=_two_levels(params),
        audit=_json(AUDIT),
        epochs=_csv(TRAIN_RESULTS / "epochs.csv"),
        steps=_csv(TRAIN_RESULTS / "steps.csv"),
        train=_json(TRAIN_RESULTS / "metrics.json"),
        train_cost=cost,
        metrics=_json(EVAL_RESULTS / "metrics.json"),
        evaluate_cost=evaluate_cost,
        slices=_csv(EVAL_RESULTS / "slices.csv", text=("column", "value")),
        confusion=_csv(EVAL_RESULTS / "confusion.csv", text=("actual", "predicted")),
        calibration=_csv(EVAL_RESULTS / "calibration.csv"),
        predictions=pd.read_parquet(require(EVAL_RESULTS / "predictions.parquet")),
        price=price(seconds, cost.get("hardware") or {}, **bind(price, "cost", params["cost"])),
        commit=commit,
        dirty=dirty,
        overrides=overrides(params),
        run_id=_json(TRAIN_RESULTS / "run.json").get("mlflow_run_id"),
    )


def overrides(params: dict[str, Any]) -> list[str]:
    """The `-S` arguments that turn conf/ as it is now into these sections."""
    try:
        composed = compose()
    except UserError:  # conf/ is being edited; the report of a finished run must not fail for that
        return []
    return differences(_two_levels({name: composed[name] for name in params if name in composed}), _two_levels(params))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Hydra overrides that turn settings `old` into `new`, both keyed "section.key"."""
    changed = [
        f"{'' if key in old else '++'}{key}={literal(value)}"
        for key, value in new.items()
        if key not in old or old[key] != value
    ]
    return changed + [f"~{key}" for key in old if key not in new]


def literal(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(literal(inner) for inner in value) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    # A bare word that looks like a number, a boolean or null is read as one, hence quotes for all but plain words.
    if re.fullmatch(r"[A-Za-z_/.][\w/.:-]*", value) and value.lower() not in _CONSTANTS:
        return value
    # Backslashes count as escapes only where they stand before a quote.
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"


def tracked(results: Results) -> dict[str, float]:
    """The figures that go to MLflow: scores under the split's name, and the price if there is one."""
    split = results.metrics["split"]
    numbers = {key: value for key, value in results.metrics.items() if isinstance(value, int | float)}
    figures = {f"{split}_{key}": float(value) for key, value in numbers.items()}
    figures["cost/evaluate_seconds"] = float(results.evaluate_cost["evaluate_seconds"])
    return figures | ({} if results.price["usd"] is None else {"usd": results.price["usd"]})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tuneledger.stages.report", description=__doc__.splitlines()[0])
    parser.add_argument("--illustrated", action="store_true", help="write the page with the learning pictures only")
    illustrated = parser.parse_args().illustrated
    results = read_results(read_params(*SECTIONS))
    if illustrated:
        sections = [require(REPORTS / name / "section.html").read_text(encoding="utf-8") for name in PICTURES]
        write_text(ILLUSTRATED, html(results, sections))
        print(f"report: {ILLUSTRATED}")
        _track(results, [ILLUSTRATED])
    else:
        write_report(results)
        _track(
            results,
            [REPORTS / "report.html", REPORTS / "report.md", *FIGURES.glob("*.svg"), *EVAL_RESULTS.glob("*.csv")],
        )


def write_report(results: Results) -> None:
    """Write the report, its figures and its price."""
    write_text(REPORTS / "report.html", html(results))
    with replacing(FIGURES) as folder:
        for name, svg in pictures(results).items():
            write_text(folder / f"{name}.svg", standalone(svg))
    write_text(REPORTS / "report.md", short(results))
    seconds = {
        "fit_seconds": results.train_cost["fit_seconds"],
        "evaluate_seconds": results.evaluate_cost["evaluate_seconds"],
    }
    write_json(REPORTS / "cost.json", {**results.price, **seconds})
    usd = results.price["usd"]
    figure = "" if usd is None else f"{dollars(usd)} at "
    print(f"report: {REPORTS / 'report.html'}; cost: {figure}{price_text(results.price)}")


def _two_levels(params: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, section in params.items():
        flat |= (
            {f"{name}.{key}": value for key, value in section.items()} if isinstance(section, dict) else {name: section}
        )
    return flat


def _track(results: Results, files: list[Path]) -> None:
    from tuneledger.ledger import tracking  # imports mlflow, seconds that a failing report need not spend

    settings = bind(check_tracking, "tracking", read_params("tracking")["tracking"])
    check_tracking(**settings)
    tracking.append(results.run_id, metrics=tracked(results), artifacts=files, tracking=settings)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(require(path).read_text(encoding="utf-8"))


def _csv(path: Path, text: tuple[str, ...] = ()) -> pd.DataFrame:
    """Columns `text` stay as written: a label may be called 1, NA or nothing at all."""
    as_text = dict.fromkeys(text, str)
    return pd.read_csv(require(path), dtype=as_text, keep_default_na=not text, na_values={"f1": [""]})


if __name__ == "__main__":
    run_stage(main)
