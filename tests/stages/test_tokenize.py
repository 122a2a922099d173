from __future__ import annotations

import json
from pathlib import Path

import pytest
import scratch
import yaml

from tuneledger.errors import UserError, exit_code
from tuneledger.ledger.provenance import file_digests
from tuneledger.stages import tokenize
from tuneledger.text.batches import TokenizedSplit

SECTION = {"path": scratch.TINY_MODEL["path"], "revision": None, "max_length": 24}
DATA = {"format": "files", "path": "data/raw/twins"}
SPLITS = {"train": 12, "validation": 5, "test": 4}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder as stage `prepare` leaves it, in which the stage runs."""
    monkeypatch.chdir(tmp_path)
    prepared = tmp_path / "data" / "prepared"
    prepared.mkdir(parents=True)
    for split, rows in SPLITS.items():
        scratch.twins(split, rows).to_parquet(prepared / f"{split}.parquet")
    schema = {"text": ["sentence1", "sentence2"], "labels": ["no", "yes"], "slices": [], "splits": SPLITS, "data": DATA}
    (prepared / "schema.json").write_text(json.dumps(schema))
    write_params(tmp_path)
    return tmp_path


def write_params(project: Path, **changes) -> None:
    (project / "params.yaml").write_text(yaml.safe_dump({"tokenizer": {**SECTION, **changes}}))


def test_writes_splits_tokenizer_and_meta(project, capsys):
    tokenize.main()
    folder = project / "data" / "tokenized"
    assert {path.name for path in folder.iterdir()} == {
        "train.arrow",
        "validation.arrow",
        "test.arrow",
        "tokenizer",
        "meta.json",
    }
    assert (folder / "tokenizer" / "tokenizer.json").exists()
    meta = json.loads((folder / "meta.json").read_text())
    assert list(meta) == ["data", "tokenizer", "text", "labels", "splits"]
    assert meta["data"] == DATA
    assert meta["tokenizer"] == SECTION
    assert (meta["text"], meta["labels"]) == (["sentence1", "sentence2"], ["no", "yes"])
    said = capsys.readouterr().out.splitlines()
    for (split, rows), line in zip(SPLITS.items(), said, strict=True):
        counts, tokens = meta["splits"][split], TokenizedSplit(folder / f"{split}.arrow")
        assert counts["rows"] == len(tokens) == rows
        assert counts["tokens"] == int(tokens.lengths.sum())
        assert counts["longest"] == int(tokens.lengths.max()) <= 24
        assert tokens.labels.tolist() == scratch.twins(split, rows)["label"].tolist()
        assert line == (
            f"{split}: {rows} rows, {counts['tokens'] / rows:.1f} tokens a row, longest {counts['longest']}, "
            f"{counts['truncated']} cut at 24"
        )


def test_again_gives_the_same_bytes_and_drops_what_was_there(project):
    tokenize.main()
    folder = project / "data" / "tokenized"
    before = file_digests(folder)
    (folder / "old.arrow").write_text("left over")
    tokenize.main()
    assert file_digests(folder) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 1000}, r"^tokenizer\.max_length = 1000: "),
        ({"max_lenght": 24}, r"^unknown key tokenizer\.max_lenght: did you mean tokenizer\.max_length\?$"),
    ],
)
def test_a_mistake_keeps_what_was_there(project, changes, message):
    tokenize.main()
    before = file_digests(project / "data")
    write_params(project, **changes)
    with pytest.raises(UserError, match=message):
        tokenize.main()
    assert file_digests(project / "data") == before


def test_before_prepare_it_names_what_is_missing(project, capsys):
    (project / "data" / "prepared" / "schema.json").unlink()
    assert exit_code(tokenize.main) == 2
    assert "data/prepared/schema.json" in capsys.readouterr().err
    assert not (project / "data" / "tokenized").exists()
