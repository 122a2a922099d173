from __future__ import annotations

from pathlib import Path

import pytest

from tuneledger.data import mrpc
from tuneledger.errors import UserError

HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
HUB = {"hub": "nyu-mll/glue", "revision": "0" * 40}


def put(folder: Path, name: str, *labels: int, mark: str = "") -> None:
    rows = "".join(f'{label}\t{n}\t{n + 1}\t" left {name} {n}\tright {name} {n}\n' for n, label in enumerate(labels))
    (folder / name).write_text(mark + HEADER + rows, encoding="utf-8")


def test_glue_files(tmp_path, capsys):
    put(tmp_path, "train.tsv", 1, 0, mark="\ufeff")
    put(tmp_path, "dev.tsv", 1)
    (tmp_path / "test.tsv").write_text("index\t#1 ID\n0\t1\n")
    tables, sources = mrpc.load(str(tmp_path), **HUB)
    assert tables["train"].iloc[0].to_dict() == {
        "text_a": '" left train.tsv 0',
        "text_b": "right train.tsv 0",
        "label": "1",
        "source": f"{tmp_path}/train.tsv:2",
        "#1 ID": "0",
        "#2 ID": "1",
    }
    assert [(source["split"], source["rows"]) for source in sources] == [("train", 2), ("validation", 1)]
    assert capsys.readouterr().out == f"{tmp_path}/test.tsv is left out: GLUE's test split has no labels\n"


def test_original_files_have_a_test_split(tmp_path):
    put(tmp_path, "msr_paraphrase_train.txt", 1, 0, 1)
    put(tmp_path, "msr_paraphrase_test.txt", 0)
    tables, _ = mrpc.load(str(tmp_path), **HUB)
    assert {split: table["label"].tolist() for split, table in tables.items()} == {
        "train": ["1", "0", "1"],
        "test": ["0"],
    }


def test_glue_files_with_the_original_test_file_make_three_splits(tmp_path):
    put(tmp_path, "train.tsv", 1, 0)
    put(tmp_path, "dev.tsv", 1)
    put(tmp_path, "msr_paraphrase_test.txt", 0, 1)
    tables, _ = mrpc.load(str(tmp_path), **HUB)
    assert {split: len(table) for split, table in tables.items()} == {"train": 2, "validation": 1, "test": 2}


def test_half_a_copy_names_the_missing_file(tmp_path):
    put(tmp_path, "dev.tsv", 1)
    with pytest.raises(UserError, match=r"/train\.tsv: no such file; "):
        mrpc.load(str(tmp_path), **HUB)


def test_a_mistyped_folder_does_not_go_to_the_hub(tmp_path):
    with pytest.raises(UserError) as caught:
        mrpc.load(f"{tmp_path}/x", **HUB)
    assert str(caught.value) == (
        f"data.path={tmp_path}/x is no folder: put the MRPC files there or leave data.path as it was"
    )


class Column:
    """What the hub's library returns for one split, as far as it is used."""

    def __init__(self, **columns: list):
        self.columns = columns

    def to_dict(self) -> dict[str, list]:
        return self.columns


def test_hub_rows_and_their_source(tmp_path, monkeypatch, capsys):
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        return {
            "test": Column(sentence1=["g"], sentence2=["h"], label=[-1], idx=[0]),
            "train": Column(sentence1=["a", "b"], sentence2=["c", "d"], label=[1, 0], idx=[0, 1]),
            "validation": Column(sentence1=["e"], sentence2=["f"], label=[1], idx=[9]),
        }

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    tables, sources = mrpc.load(str(tmp_path), **HUB)
    assert asked == [(("nyu-mll/glue", "mrpc"), {"revision": "0" * 40})]
    assert list(tables) == ["train", "validation"]
    assert tables["train"]["source"].tolist() == ["nyu-mll/glue[train]:1", "nyu-mll/glue[train]:2"]
    assert tables["validation"].iloc[0].to_dict() | {"source": ""} == {
        "text_a": "e", "text_b": "f", "label": "1", "source": "", "idx": "9",
    }  # fmt: skip
    assert sources[0] == {"split": "train", "file": "nyu-mll/glue[train]", "revision": "0" * 40, "rows": 2}
    assert capsys.readouterr().out == (
        f"no MRPC file in {tmp_path}: loading nyu-mll/glue (mrpc) from the Hugging Face hub, revision {'0' * 40}\n"
    )


def test_the_hub_out_of_reach_says_what_to_do(tmp_path, monkeypatch):
    def load_dataset(*args, **options):
        raise ConnectionError("Couldn't reach 'nyu-mll/glue' on the Hub\nmore")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(UserError) as caught:
        mrpc.load(str(tmp_path), **HUB)
    assert str(caught.value) == (
        f"cannot load nyu-mll/glue (mrpc, revision {'0' * 40}) from the Hugging Face hub "
        "(ConnectionError: Couldn't reach 'nyu-mll/glue' on the Hub): either put GLUE's "
        "train.tsv and dev.tsv or Microsoft's msr_paraphrase_train.txt and msr_paraphrase_test.txt "
        f"into {tmp_path}, or set data.path=FOLDER to "
        "where they are, or run once with a network, or set HF_HOME to a cache that holds it"
    )
