from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tuneledger.data.audit import audit, summary
from tuneledger.stages.prepare import prepare

MRPC = Path(__file__).resolve().parents[2] / "../shared/data/mrpc"


def rows(split: str, *pairs: tuple[str, str, int]) -> pd.DataFrame:
    table = pd.DataFrame(pairs, columns=["text_a", "text_b", "label"])
    return table.assign(source=[f"{split}:{n}" for n in range(len(table))])


SPLITS = {
    "train": rows("train", ("a b", "c", 0), ("C", "A  b", 1), ("d", "e", 0), ("...", "x " * 401, 0)),
    "validation": rows("validation", ("e", "d", 0), ("f", "c", 1), ("g", "h", 1)),
    "test": rows("test", ("G ", "j", 1), ("i", "k", 1)),
}


@pytest.fixture
def result() -> dict:
    return {"split": "given", "left_out": 0, **audit(SPLITS, ["no", "yes"], [{"file": "x.tsv"}])}


def test_one_split(result):
    assert result["splits"]["train"] == {
        "rows": 4,
        "label_counts": {"no": 3, "yes": 1},
        "majority_label": "no",
        "majority_baseline": 0.75,
        "empty_texts": 1,
        "over_long_texts": 1,
        "characters": {"median": 2.0, "p95": pytest.approx(522.7), "max": 802},
        "words": {"median": 1.0, "p95": pytest.approx(261.35), "max": 401},
        "duplicates": 1,
    }


def test_across_splits(result):
    assert result["duplicates_across_splits"] == 1
    assert result["shared_sentences"] == {
        "validation": {"train": {"rows": 2, "sentences": 3}},
        "test": {"train": {"rows": 0, "sentences": 0}, "validation": {"rows": 1, "sentences": 1}},
    }
    assert result["contradictions"] == {
        "count": 1,
        "examples": [[{"source": "train:0", "label": "no"}, {"source": "train:1", "label": "yes"}]],
    }
    assert result["sources"] == [{"file": "x.tsv"}]


def test_single_texts():
    splits = {name: table.drop(columns="text_b") for name, table in SPLITS.items()}
    result = audit(splits, ["no", "yes"], [])
    assert result["shared_sentences"]["validation"]["train"] == {"rows": 0, "sentences": 0}
    assert result["splits"]["train"]["characters"]["max"] == 3


@pytest.mark.parametrize("name", ["split", "pair", "index", "level_0", "rows", "text_c"])
def test_a_column_of_any_name_does_not_matter(name, result):
    splits = {split: table.assign(**{name: "x"}) for split, table in SPLITS.items()}
    assert audit(splits, ["no", "yes"], [{"file": "x.tsv"}]).items() <= result.items()


def test_summary_warns_and_says_what_to_do(result):
    assert summary(result) == [
        "train             4 rows, 75.0% are 'no' (the majority baseline), 1 words a text",
        "warning: 1 texts of train have more than 400 words",
        "validation        3 rows, 66.7% are 'yes' (the majority baseline), 1 words a text",
        "test              2 rows, 100.0% are 'yes' (the majority baseline), 1 words a text",
        "warning: 2 of 3 validation rows share a sentence with train; data.split=grouped makes none shared",
        "warning: 1 of 2 test rows share a sentence with validation; data.split=grouped makes none shared",
        "warning: 1 repeated rows contradict each other in the label, first train:0 (no) and train:1 (yes)",
    ]
    assert summary(result | {"left_out": 1200})[4] == (
        "warning: 1,200 rows left out of train and validation: they share a sentence with the given test split; "
        "data.test_fraction above 0 draws test anew and keeps them"
    )


@pytest.mark.skipif(not MRPC.is_dir(), reason="MRPC is not at hand (looked in ../shared/data/mrpc)")
@pytest.mark.parametrize(("split", "shared"), [("given", 43), ("grouped", 0)])
def test_mrpc(split, shared):
    options = {"hub": "none", "revision": "none", "validation_fraction": 0.1, "test_fraction": 0, "split_seed": 42}
    splits, schema, result = prepare(format="mrpc", path=str(MRPC), split=split, **options)
    assert [source["rows"] for source in result["sources"]] == [3668, 408]
    assert result["sources"][0]["sha256"].startswith("15d9c71e62d662b1")
    assert result["duplicates_across_splits"] == 0
    assert [part["duplicates"] for part in result["splits"].values()] == [0, 0]
    assert result["left_out"] == 0
    assert result["shared_sentences"] == {"validation": {"train": {"rows": shared, "sentences": shared}}}
    assert schema["slices"] == []
    if split == "given":
        assert result["splits"]["train"]["label_counts"] == {"0": 1194, "1": 2474}
        assert result["splits"]["validation"]["label_counts"] == {"0": 129, "1": 279}
    else:
        assert abs(len(splits["validation"]) - 407.6) < 5
        assert abs(result["splits"]["validation"]["majority_baseline"] - 0.675) < 0.01
