"""What a picture stage leaves for people: a page, the section that the illustrated report takes over, figures."""

from __future__ import annotations

import json

from tuneledger.conf import bind, read_params
from tuneledger.ledger.tracker import check_tracking
from tuneledger.paths import REPORTS, TRAIN_RESULTS, replacing, write_text
from tuneledger.show.svg import standalone


def publish(name: str, page: str, section: str, figures: dict[str, str], metrics: dict[str, float]) -> None:
    """Write reports/<name>.html and the folder reports/<name>, and add them to the MLflow run of results/train.

    Args:
        page, section: HTML.
        figures: <svg> elements by name.
        metrics: for MLflow.
    """
    file, folder = REPORTS / f"{name}.html", REPORTS / name
    write_text(file, page)
    with replacing(folder) as partial:
        write_text(partial / "section.html", section)
        for title, svg in figures.items():
            write_text(partial / f"{title}.svg", standalone(svg))
    record = TRAIN_RESULTS / "run.json"
    if not record.exists():
        return
    from tuneledger.ledger import tracking  # imports mlflow, seconds that an untracked project need not spend

    settings = bind(check_tracking, "tracking", read_params("tracking")["tracking"])
    check_tracking(**settings)
    run_id = json.loads(record.read_text(encoding="utf-8"))["mlflow_run_id"]
    files = [file, *sorted(folder.glob("*.svg"))]
    tracking.append(run_id, metrics=metrics, artifacts=files, tracking=settings)
