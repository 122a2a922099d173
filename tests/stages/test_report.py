from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from tuneledger.errors import UserError
from tuneledger.stages import report as stage
from tuneledger.stages.evaluate import _write, evaluate

TRACKING = {"enabled": False, "uri": None, "experiment": "e", "log_model": False, "system_metrics": False}
CARD = {"as_of": "2026-06-17", "source": "a list", "usd_per_hour": None, "gpu_usd_per_hour": {"NVIDIA A10G": 1.2}}
CONF = {
    "seed": 1,
    "data": {"path": "data/raw/twins"},
    "tokenizer": {"max_length": 128},
    "model": {"path": "package://some_package/model"},
    "optim": {"lr": 1e-4},
    "loss": {"r_drop": 0.0},
    "loader": {"eval_batch_size": 64},
    "trainer": {"max_epochs": 1},
    "cost": CARD,
    "tracking": TRACKING,
}
PREPARED_SPLIT = {
    "rows": 4,
    "label_counts": {"1": 2, "NA": 2},
    "majority_label": "1",
    "majority_baseline": 0.5,
    "words": {"median": 1.0, "p95": 1.0, "max": 1},
    "empty_texts": 0,
    "over_long_texts": 0,
    "duplicates": 0,
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the results of a small run, tracking replaced by a list of what it was given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(json.dumps(CONF))
    train, prepare = tmp_path / "results/train", tmp_path / "results/prepare"
    train.mkdir(parents=True)
    prepare.mkdir()
    frame = pd.DataFrame(
        {"text_a": list("abcd"), "label": [0, 1, 1, 0], "source": list("wxyz"), "kind": ["1", "1", "NA", "NA"]}
    )
    logits = np.array([[2, 0], [0, 1], [3, 0], [1, 0]], dtype=np.float32)
    result = evaluate(frame, logits, {"labels": ["1", "NA"], "slices": ["kind"]})
    (tmp_path / "results/eval").mkdir()
    _write(tmp_path / "results/eval", result, {"split": "test", **result.metrics})
    write(tmp_path / "results/eval/cost.json", {"evaluate_seconds": 100.0})
    header = "epoch,step,train_loss,val_loss,accuracy,accuracy_low,accuracy_high,f1"
    (train / "epochs.csv").write_text(f"{header}\n1,2,0.7,0.6,0.75,0.3,0.95,0.67\n")
    (train / "steps.csv").write_text("step,epoch,loss,lr\n1,1,0.7,0.0001\n2,1,0.6,0.0\n")
    write(
        train / "metrics.json",
        {"best_epoch": 1, "epochs": 1, "steps": 2, "majority_baseline": 0.5, "selected_by": "val_loss (min)"},
    )
    write(train / "cost.json", {"hardware": {"gpu": "NVIDIA A10G", "gpus": 1}, "fit_seconds": 500.0})
    write(train / "run.json", {"mlflow_run_id": "feedbeef", "run_key": "k"})
    write(
        prepare / "audit.json",
        {
            "labels": ["1", "NA"],
            "over_long_words": 400,
            "splits": {"test": PREPARED_SPLIT},
            "duplicates_across_splits": 0,
            "contradictions": {"count": 0, "examples": []},
            "left_out": 0,
            "shared_sentences": {},
        },
    )
    monkeypatch.setattr("tuneledger.conf.compose", lambda: CONF)
    monkeypatch.setattr("sys.argv", ["report"])
    return tmp_path


@pytest.fixture
def appended(monkeypatch) -> list:
    """What tracking was asked to record."""
    calls = []
    monkeypatch.setattr("tuneledger.ledger.tracking.append", lambda *args, **kwargs: calls.append((args, kwargs)))
    return calls


def write(path, value) -> None:
    path.write_text(json.dumps(value))


def test_main_writes_the_report_and_the_price(project, appended, capsys):
    stage.main()
    assert json.loads((project / "reports/cost.json").read_text()) == {
        "usd": 0.2,
        "usd_per_hour": 1.2,
        "price_source": "a list",
        "price_as_of": "2026-06-17",
        "fit_seconds": 500.0,
        "evaluate_seconds": 100.0,
    }
    assert "$0.20" in (project / "reports/report.html").read_text(encoding="utf-8")
    assert "$0.20 (at $1.2 an hour, a list, as of 2026-06-17)" in (project / "reports/report.md").read_text("utf-8")
    assert capsys.readouterr().out == (
        "report: reports/report.html; cost: $0.20 at $1.2 an hour, a list, as of 2026-06-17\n"
    )


def test_tracking_gets_scores_price_and_files(project, appended):
    stage.main()
    ((run_id,), given) = appended[0]
    assert run_id == "feedbeef"
    assert given["tracking"] == TRACKING
    assert given["metrics"]["test_accuracy"] == 0.75
    assert given["metrics"]["usd"] == 0.2
    assert "test_split" not in given["metrics"]
    names = {path.name for path in given["artifacts"]}
    assert names >= {"report.html", "report.md", "calibration.csv", "confusion.csv", "slices.csv"}
    assert names >= {"loss.svg", "scores.svg", "confusion.svg", "calibration.svg"}


def test_unknown_hardware_gives_no_figure(project, appended):
    write(project / "results/train/cost.json", {"hardware": {"gpu": None, "gpus": 0}, "fit_seconds": 500.0})
    stage.main()
    assert json.loads((project / "reports/cost.json").read_text())["usd"] is None
    assert "no price for this hardware: set cost.usd_per_hour" in (project / "reports/report.md").read_text("utf-8")
    assert "usd" not in appended[0][1]["metrics"]


def test_labels_and_values_stay_as_written(project):
    results = stage.read_results(stage.read_params(*stage.SECTIONS))
    assert set(results.confusion["actual"]) == {"1", "NA"}
    assert results.slices["value"].tolist() == ["1", "NA"]


def test_a_missing_result_is_named(project):
    (project / "results/eval/slices.csv").unlink()
    with pytest.raises(UserError, match=r"results/eval/slices\.csv is missing: run `dvc repro`"):
        stage.main()
    assert not (project / "reports").exists()


def test_a_misspelt_key_of_the_card(project):
    write(project / "params.yaml", CONF | {"cost": CARD | {"usd_per_hours": 1}})
    with pytest.raises(UserError, match=r"unknown key cost\.usd_per_hours: did you mean cost\.usd_per_hour\?"):
        stage.main()


def test_the_illustrated_report_takes_the_sections_and_tracks_pages_and_pictures(project, appended, monkeypatch):
    for name in stage.PICTURES:
        (project / "reports" / name).mkdir(parents=True)
        (project / "reports" / name / "section.html").write_text(f"<p>section {name}</p>")
        (project / "reports" / name / f"{name}-one.svg").write_text("<svg/>")
    monkeypatch.setattr("sys.argv", ["report", "--illustrated"])
    stage.main()
    page = (project / "reports/illustrated.html").read_text(encoding="utf-8")
    assert re.findall(r"<p>section (\w+)</p>", page) == list(stage.PICTURES)
    assert not (project / "reports/report.html").exists()
    (((run_id,), given),) = appended
    assert run_id == "feedbeef" and given["metrics"] == {}
    pages = {"illustrated.html", *(f"{name}.html" for name in stage.PICTURES)}
    assert {path.name for path in given["artifacts"]} == pages | {f"{name}-one.svg" for name in stage.PICTURES}


def test_a_missing_picture_is_named_with_what_makes_it(project, monkeypatch):
    monkeypatch.setattr("sys.argv", ["report", "--illustrated"])
    with pytest.raises(UserError, match=r"section\.html is missing: run `dvc repro pictures/dvc\.yaml`"):
        stage.main()
