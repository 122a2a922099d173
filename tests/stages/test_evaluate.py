from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from tuneledger.errors import UserError
from tuneledger.stages import evaluate as stage

SCHEMA = {"text": ["text"], "labels": ["no", "NA"], "slices": ["domain"], "splits": {"test": 4}}
LOGITS = np.array([[2, 0], [0, 1], [3, 0], [1, 0]], dtype=np.float32)


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "text_a": ["one", "two", "three", "four"],
            "label": [0, 1, 1, 0],
            "source": [f"test.tsv:{line}" for line in range(2, 6)],
            "domain": ["life", "life", "sport", "sport"],
            "confidence": ["given"] * 4,
        }
    )


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder in which the stage runs, its model replaced by known logits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/prepared").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("loader: {eval_batch_size: 3}\ntrainer: {accelerator: cpu}\n")
    (tmp_path / "data/prepared/schema.json").write_text(json.dumps(SCHEMA))
    for made in ("models/best", "data/tokenized"):
        (tmp_path / made).mkdir(parents=True)
    for split in ("test", "validation"):
        (tmp_path / f"data/tokenized/{split}.arrow").touch()
    calls = []
    monkeypatch.setattr(stage, "predict", lambda *args, **kwargs: calls.append((args, kwargs)) or LOGITS)
    return tmp_path, calls


def test_evaluate_is_pure_and_complete():
    result = stage.evaluate(frame(), LOGITS, SCHEMA)
    assert result.metrics["rows"] == 4
    assert result.metrics["accuracy"] == 0.75
    assert result.confusion.values.tolist() == [["no", "no"], ["NA", "NA"], ["NA", "no"], ["no", "no"]]
    assert result.slices[["value", "accuracy"]].values.tolist() == [["life", 1.0], ["sport", 0.5]]
    assert result.calibration["rows"].sum() == 4


def test_predictions_keep_the_row_and_what_was_said():
    predictions = stage.evaluate(frame(), LOGITS, SCHEMA).predictions
    assert list(predictions.columns) == [
        "source", "text_a", "domain", "input_confidence", "label", "predicted", "confidence",
        "probability_no", "probability_NA", "logit_no", "logit_NA",
    ]  # fmt: skip
    third = predictions.iloc[2]
    assert (third["label"], third["predicted"]) == ("NA", "no")
    assert third["confidence"] == third["probability_no"] == pytest.approx(1 / (1 + np.exp(-3)))
    assert predictions[["logit_no", "logit_NA"]].to_numpy().tolist() == LOGITS.tolist()


def test_logits_of_other_data():
    with pytest.raises(UserError, match=r"logits of shape \(3, 2\) for 4 rows and 2 labels .* run `dvc repro`"):
        stage.evaluate(frame(), LOGITS[:3], SCHEMA)


def test_logits_that_are_not_finite():
    bad = LOGITS.copy()
    bad[1, 0] = np.nan
    with pytest.raises(UserError, match=r"NaN or infinite logits for 1 of 4 rows, first for test\.tsv:3"):
        stage.evaluate(frame(), bad, SCHEMA)


def test_main_writes_every_file(project, capsys):
    folder, calls = project
    frame().to_parquet("data/prepared/test.parquet")
    frame().to_parquet("data/prepared/validation.parquet")
    stage.main()
    written = sorted(path.name for path in (folder / "results/eval").iterdir())
    assert written == [
        "calibration.csv", "confusion.csv", "cost.json", "metrics.json", "predictions.parquet", "slices.csv",
    ]  # fmt: skip
    (args, kwargs) = calls[0]
    assert [path.as_posix() for path in args] == ["models/best", "data/tokenized/test.arrow"]
    assert kwargs == {"batch_size": 3, "accelerator": "cpu"}
    metrics = json.loads((folder / "results/eval/metrics.json").read_text())
    assert (metrics["split"], metrics["rows"], metrics["accuracy"]) == ("test", 4, 0.75)
    assert json.loads((folder / "results/eval/cost.json").read_text()).keys() == {
        "evaluate_seconds",
        "examples_per_second",
    }
    assert (folder / "results/eval/confusion.csv").read_text().splitlines()[:2] == ["actual,predicted", "no,no"]
    out = capsys.readouterr().out
    assert "test: 4 rows, majority baseline 0.500" in out
    assert "accuracy  0.750  [0.301, 0.954]" in out
    assert "warning" not in out and "validation" not in out


def test_without_a_test_split_validation_is_judged_and_said(project, capsys):
    folder, calls = project
    frame().to_parquet("data/prepared/validation.parquet")
    stage.main()
    assert calls[0][0][1].name == "validation.arrow"
    assert json.loads((folder / "results/eval/metrics.json").read_text())["split"] == "validation"
    assert "no labelled test split: judged on validation" in capsys.readouterr().out


def test_collapse_is_said():
    result = stage.evaluate(frame(), np.tile(np.float32([5, 0]), (4, 1)), SCHEMA)
    text = stage.summary({"split": "test", **result.metrics}, result.confusion)
    assert "warning: collapsed, every row is predicted 'no'" in text
