"""The report: one HTML page that opens offline, and the same in short as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from tuneledger.show import figures, sections
from tuneledger.show.page import page, text
from tuneledger.show.results import Results
from tuneledger.show.sections import Cell
from tuneledger.show.tables import count, duration, interval, markdown, number

_EPOCHS = ("Epoch", "Training Loss", "Validation Loss", "Accuracy", "F1")
_SCORES = ("Score", "Value", "95 % interval")
_SLICES = ("Column", "Value", "Rows", "Accuracy", "F1", "Majority")


def html(results: Results, sections: Sequence[str] = ()) -> str:
    """The page: texts from the data are escaped, pictures are inline, nothing is fetched.

    Args:
        sections: further ones as HTML, which other pages of ours have too.
    """
    drawn = {name: Markup(svg) for name, svg in pictures(results).items()}
    more = {"figures": drawn, "sections": [Markup(section) for section in sections]}
    return page("report.html.j2", _context(results) | more)


def short(results: Results) -> str:
    """The same findings in Markdown, without pictures."""
    return text("report.md.j2", _context(results) | {"table": _markdown_table})


def _context(results: Results) -> dict[str, Any]:
    """The names that both templates use."""
    metrics, train = results.metrics, results.train
    usd, usd_note = sections.cost_headline(results.price)
    return {
        "model": sections.model_name(results.params),
        "data": sections.data_name(results.params),
        "split": metrics["split"],
        "metrics": metrics,
        "train": train,
        "seed": results.params["seed"],
        "verdict": sections.verdict(metrics),
        "usd": usd,
        "usd_note": usd_note,
        "fit": duration(results.train_cost.get("fit_seconds")),
        "collapsed": results.predictions["predicted"].nunique() == 1,
        "epochs": (_EPOCHS, sections.epoch_rows(results.epochs)),
        "best_row": results.epochs["epoch"].tolist().index(train["best_epoch"]),
        "scores": (_SCORES, sections.score_rows(metrics)),
        "slices": (_SLICES, sections.slice_rows(results.slices)),
        "mistakes": sections.mistakes(results.predictions),
        "mistakes_total": int((results.predictions["label"] != results.predictions["predicted"]).sum()),
        "audit": sections.audit_table(results.audit),
        "audit_notes": " ".join(sections.audit_sentences(results.audit)),
        "cost": sections.cost_rows(results.train_cost, results.evaluate_cost, results.price),
        "commit": results.commit,
        "dirty": results.dirty,
        "commands": sections.commands(results.commit, results.overrides),
        "settings": sections.settings(results.params),
        "run_id": results.run_id,
        "number": number,
        "interval": interval,
        "count": count,
    }


def pictures(results: Results) -> dict[str, str]:
    """The page's pictures by name, each an <svg> element for a page (`svg.standalone` makes a file of it)."""
    labels = [name.removeprefix("logit_") for name in results.predictions if name.startswith("logit_")]
    drawn = {
        "loss": figures.loss_curves(results.steps, results.epochs),
        "scores": figures.score_curves(results.epochs, results.train["majority_baseline"], results.train["best_epoch"]),
        "confusion": figures.confusion_matrix(results.confusion, labels),
        "calibration": figures.reliability(results.calibration),
    }
    if len(results.slices):
        drawn["slices"] = figures.slice_accuracy(results.slices, results.metrics["accuracy"])
    return drawn


def _markdown_table(header: tuple[str, ...], rows: list[list[Cell]], text_columns: int = 1) -> str:
    flat = [[cell if isinstance(cell, str) else f"{cell[0]} ({cell[1]})" for cell in row] for row in rows]
    return markdown(header, flat, text_columns)
