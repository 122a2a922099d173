"""Stage `report`: everything known about the run on one page, its price, and the final figures to MLflow.

Reads results/ and params.yaml; writes reports/report.html, report.md, cost.json and figures/. Alone:
`python -m tuneledger.stages.report`. No other stage depends on a price.

With --illustrated, as pictures/dvc.yaml runs it, it writes reports/illustrated.html alone: the same page with the
sections that the picture stages left in reports/. Their pages and pictures go to MLflow with it, since only this stage
knows that they belong to the run in results/train.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from tuneledger.conf import bind, overrides, read_params, two_levels
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

FIGURES = REPORTS / "figures"
ILLUSTRATED = REPORTS / "illustrated.html"
PICTURES = ("lr_find", "descent", "structure")  # stages of pictures/dvc.yaml, in the order of the page
SECTIONS = ("seed", "data", "tokenizer", "model", "optim", "loss", "loader", "trainer", "cost")


def read_results(params: dict[str, Any]) -> Results:
    """results/ as values, priced with params["cost"].

    Raises:
        UserError: a missing results file, or an unusable price card.
    """
    cost, evaluate_cost = _json(TRAIN_RESULTS / "cost.json"), _json(EVAL_RESULTS / "cost.json")
    seconds = cost["fit_seconds"] + evaluate_cost["evaluate_seconds"]
    commit, dirty = git_commit(code_root())
    return Results(
        params=two_levels(params),
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
        write_illustrated(results)
        pages = [ILLUSTRATED, *(REPORTS / f"{name}.html" for name in PICTURES)]
        _track(results, {}, [*pages, *(svg for name in PICTURES for svg in (REPORTS / name).glob("*.svg"))])
    else:
        write_report(results)
        pages = [REPORTS / "report.html", REPORTS / "report.md"]
        _track(results, tracked(results), [*pages, *FIGURES.glob("*.svg"), *EVAL_RESULTS.glob("*.csv")])


def write_illustrated(results: Results) -> None:
    """Write the report with the sections of the picture stages."""
    files = [require(REPORTS / name / "section.html", "dvc repro pictures/dvc.yaml") for name in PICTURES]
    write_text(ILLUSTRATED, html(results, [file.read_text(encoding="utf-8") for file in files]))
    print(f"report: {ILLUSTRATED}")


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


def _track(results: Results, metrics: dict[str, float], files: list[Path]) -> None:
    from tuneledger.ledger import tracking  # imports mlflow, seconds that a failing report need not spend

    settings = bind(check_tracking, "tracking", read_params("tracking")["tracking"])
    check_tracking(**settings)
    tracking.append(results.run_id, metrics=metrics, artifacts=files, tracking=settings)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(require(path).read_text(encoding="utf-8"))


def _csv(path: Path, text: tuple[str, ...] = ()) -> pd.DataFrame:
    """Columns `text` stay as written: a label may be called 1, NA or nothing at all."""
    as_text = dict.fromkeys(text, str)
    return pd.read_csv(require(path), dtype=as_text, keep_default_na=not text, na_values={"f1": [""]})


if __name__ == "__main__":
    run_stage(main)
