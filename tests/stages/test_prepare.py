from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from omegaconf import OmegaConf

from tuneledger import paths
from tuneledger.conf import bind
from tuneledger.data.audit import summary
from tuneledger.errors import UserError
from tuneledger.stages.prepare import main, prepare

ROOT = Path(__file__).resolve().parents[2]
OWN = {"format": "files", "files": {"train": "a.tsv"}, "text": "t", "label": "l", "split": "stratified"}
MRPC = {"format": "mrpc", "hub": "none", "revision": "none", "validation_fraction": 0.25, "test_fraction": 0}


def section(option: str) -> dict:
    return OmegaConf.to_container(OmegaConf.load(ROOT / f"conf/data/{option}.yaml"))


def write(folder: Path, name: str, rows: int, start: int = 0, header: str = "t\tl") -> None:
    """A file of `rows` texts, every fourth labelled yes."""
    lines = [f"text {n}\t{'yes' if n % 4 == 0 else 'no'}" for n in range(start, start + rows)]
    (folder / name).write_text("\n".join([header, *lines]) + "\n")


def write_msr(folder: Path, name: str, numbers: range) -> None:
    """A file of the original MRPC; rows with the same number share a sentence."""
    head = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    lines = [f"{n % 2}\t{n}\t{n}\tleft {n}\t{name} {n}\n" for n in numbers]
    (folder / name).write_text("\ufeff" + head + "".join(lines), encoding="utf-8", newline="\r\n")


def overlaps(audited: dict) -> list[int]:
    """Rows that share a sentence, for every two splits."""
    return [shared["rows"] for others in audited["shared_sentences"].values() for shared in others.values()]


def fault(**settings) -> str:
    with pytest.raises(UserError) as caught:
        prepare(**settings)
    return str(caught.value)


@pytest.mark.parametrize("option", ["twins", "mrpc", "files"])
def test_options_bind_and_their_defaults_are_accepted(option, tmp_path):
    settings = bind(prepare, "data", section(option))
    assert fault(**settings | {"path": f"{tmp_path}/none"}).startswith(f"data.path={tmp_path}/none is no folder")


def test_every_key_is_used_by_some_option():
    keys = {name for name, p in inspect.signature(prepare).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert {key for option in ("twins", "mrpc", "files") for key in section(option)} == keys


def test_twins_as_the_datasheet_says():
    settings = section("twins")
    splits, schema, audited = prepare(**settings | {"path": str(ROOT / settings["path"])})
    assert schema == {
        "text": ["sentence1", "sentence2"],
        "labels": ["0", "1"],
        "slices": ["domain", "kind"],
        "splits": {"train": 1301, "validation": 279, "test": 279},
    }
    assert [part["label_counts"]["1"] for part in audited["splits"].values()] == [460, 100, 100]
    assert audited["duplicates_across_splits"] == audited["contradictions"]["count"] == 0
    assert overlaps(audited) == [0, 0, 0]
    assert list(splits["test"]) == ["text_a", "text_b", "label", "source", "id", "domain", "kind"]
    assert splits["test"]["source"].iloc[0].endswith("data/raw/twins/test.tsv:2")


def test_one_file_becomes_three_splits(tmp_path):
    write(tmp_path, "a.tsv", 40)
    splits, schema, audited = prepare(**OWN, path=str(tmp_path))
    assert schema == {
        "text": ["t"],
        "labels": ["no", "yes"],
        "slices": [],
        "splits": {"train": 28, "validation": 6, "test": 6},
    }
    assert [part["label_counts"]["yes"] for part in audited["splits"].values()] == [7, 1, 2]
    assert audited["split"] == "stratified"
    assert [len(table) for table in splits.values()] == [28, 6, 6]


def test_test_fraction_zero_keeps_a_given_test_file_and_its_columns(tmp_path):
    write(tmp_path, "a.tsv", 40)
    write(tmp_path, "b.tsv", 8, start=40)
    (tmp_path / "c.tsv").write_text("t\tl\tk\nunseen\tyes\tz\n")
    files = {"train": "a.tsv", "validation": "b.tsv", "test": "c.tsv"}
    splits, _, _ = prepare(**OWN | {"files": files}, path=str(tmp_path), validation_fraction=0.25, test_fraction=0)
    assert {name: len(table) for name, table in splits.items()} == {"train": 36, "validation": 12, "test": 1}
    assert splits["test"]["text_a"].tolist() == ["unseen"]
    assert splits["test"]["k"].tolist() == ["z"]
    assert set(splits["train"]["k"]) == {""}


def test_no_test_file_and_fraction_zero_give_two_splits(tmp_path):
    write(tmp_path, "a.tsv", 40)
    assert list(prepare(**OWN, path=str(tmp_path), test_fraction=0)[0]) == ["train", "validation"]


def test_original_mrpc_files_get_a_validation_split_and_keep_their_test(tmp_path, capsys):
    write_msr(tmp_path, "msr_paraphrase_train.txt", range(40))
    write_msr(tmp_path, "msr_paraphrase_test.txt", range(40, 44))
    splits, schema, audited = prepare(**MRPC, path=str(tmp_path))
    assert schema["splits"] == {"train": 30, "validation": 10, "test": 4}
    assert schema["text"] == ["sentence1", "sentence2"]
    assert audited["split"] == "stratified"
    assert all("msr_paraphrase_test.txt" in source for source in splits["test"]["source"])
    assert "drawing data.validation_fraction of train" in capsys.readouterr().out


@pytest.mark.parametrize("glue", [False, True])
def test_grouped_shares_no_sentence_with_a_test_file_that_is_kept(tmp_path, glue):
    if glue:
        write_msr(tmp_path, "train.tsv", range(30))
        write_msr(tmp_path, "dev.tsv", range(20, 40))
    else:
        write_msr(tmp_path, "msr_paraphrase_train.txt", range(40))
    write_msr(tmp_path, "msr_paraphrase_test.txt", range(28, 50))
    _, schema, audited = prepare(**MRPC, split="grouped", path=str(tmp_path))
    left_out = 14 if glue else 12
    assert audited["split"] == "grouped"
    assert audited["left_out"] == left_out
    assert overlaps(audited) == [0, 0, 0]
    assert audited["duplicates_across_splits"] == 0
    assert schema["splits"]["test"] == 22
    assert sum(schema["splits"].values()) == sum(source["rows"] for source in audited["sources"]) - left_out
    assert any(f"{left_out} rows left out of train and validation" in line for line in summary(audited))


def test_grouped_with_a_test_fraction_leaves_nothing_out(tmp_path):
    write_msr(tmp_path, "msr_paraphrase_train.txt", range(40))
    write_msr(tmp_path, "msr_paraphrase_test.txt", range(28, 50))
    settings = MRPC | {"split": "grouped", "test_fraction": 0.25}
    _, schema, audited = prepare(**settings, path=str(tmp_path))
    assert audited["left_out"] == 0
    assert overlaps(audited) == [0, 0, 0]
    assert sum(schema["splits"].values()) == 62


@pytest.mark.parametrize("name", ["split", "pair", "index", "level_0", "input_label", "rows"])
def test_further_columns_may_have_any_name(tmp_path, name):
    write(tmp_path, "a.tsv", 40, header=f"t\tl\t{name}")
    lines = (tmp_path / "a.tsv").read_text().splitlines()
    (tmp_path / "a.tsv").write_text("\n".join([lines[0], *(f"{line}\t{n % 2}" for n, line in enumerate(lines[1:]))]))
    splits, schema, _ = prepare(**OWN, path=str(tmp_path))
    assert schema["slices"] == [name]
    assert list(splits["test"]) == ["text_a", "label", "source", name]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_formats_and_label_types_agree(tmp_path, name):
    table = pd.DataFrame({"t": [f"text {n}" for n in range(12)], "l": [n % 3 for n in range(12)]})
    if name == "a.csv":
        table.to_csv(tmp_path / name, index=False)
    elif name == "a.jsonl":
        table.astype({"l": float}).to_json(tmp_path / name, orient="records", lines=True)
    else:
        table.astype({"l": float}).to_parquet(tmp_path / name)
    splits, schema, _ = prepare(**OWN | {"files": {"train": name}}, path=str(tmp_path))
    assert schema["labels"] == ["0", "1", "2"]
    rows = pd.concat(splits.values())
    assert dict(zip(rows["text_a"], rows["label"], strict=True)) == {f"text {n}": n % 3 for n in range(12)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "xml"}, "data.format=xml is not known: choose files, mrpc"),
        ({"split": "random"}, "data.split=random is not known: choose given, stratified, grouped"),
        ({"text": None}, "missing key data.text: data.format=files needs it"),
        ({"path": None}, "missing key data.path: data.format=files needs it"),
        ({"hub": "a/b"}, "data.hub has no use with data.format=files: remove it"),
        ({"test_fraction": 1}, "data.test_fraction=1 must be a number from 0 to below 1"),
        ({"validation_fraction": -0.1}, "data.validation_fraction=-0.1 must be a number from 0 to below 1"),
        (
            {"validation_fraction": float("nan")},
            "data.validation_fraction=nan must be a number from 0 to below 1",
        ),
        ({"validation_fraction": "a"}, "data.validation_fraction=a must be a number from 0 to below 1"),
        (
            {"validation_fraction": 0.5, "test_fraction": 0.5},
            (
                "data.validation_fraction=0.5 and data.test_fraction=0.5 must leave rows for validation "
                "and for training: above 0, and together below 1"
            ),
        ),
        (
            {"split": "given"},
            "there is no validation split: name its file in data.files or set data.split=stratified",
        ),
    ],
)
def test_bad_settings_name_their_key(tmp_path, settings, message):
    write(tmp_path, "a.tsv", 8)
    assert fault(**OWN | {"path": str(tmp_path)} | settings) == message


@pytest.mark.parametrize("seed", [-1, 1.5, "a", True])
def test_bad_seed(tmp_path, seed):
    with pytest.raises(UserError) as caught:
        prepare(**OWN, path=str(tmp_path), split_seed=seed)
    assert str(caught.value) == f"data.split_seed={seed} must be a whole number from 0"


def test_a_label_seen_only_in_validation(tmp_path):
    write(tmp_path, "a.tsv", 8)
    (tmp_path / "b.tsv").write_text("t\tl\nx\tno\ny\tperhaps\n")
    settings = OWN | {
        "split": "given",
        "files": {"train": "a.tsv", "validation": "b.tsv"},
        "path": str(tmp_path),
    }
    message = f"{tmp_path}/b.tsv:3: the label 'perhaps' is not one of no, yes; data.labels may list them all"
    assert fault(**settings) == message
    _, schema, _ = prepare(**settings, labels=["no", "yes", "perhaps"])
    assert schema["labels"] == ["no", "yes", "perhaps"]


@pytest.mark.parametrize("split", ["given", "stratified", "grouped"])
def test_texts_stay_on_disk(tmp_path, split):
    files = {"train": "a.tsv", "validation": "b.tsv"}
    for name in files.values():
        lines = (f"{name} {n} {'x' * 1000}\t{n % 2}\n" for n in range(20_000))
        (tmp_path / name).write_text("t\tl\n" + "".join(lines))
    before = pa.total_allocated_bytes()
    splits, _, _ = prepare(**OWN | {"files": files, "split": split}, path=str(tmp_path), test_fraction=0)
    held = sum(table["text_a"].nbytes for table in splits.values())
    assert held > 40e6
    assert pa.total_allocated_bytes() - before < held / 50


def test_main_writes_what_prepare_gives_and_repeats_byte_for_byte(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.tsv", 40)
    OmegaConf.save({"data": OWN | {"path": "."}}, "params.yaml")
    main()
    files = {path: path.read_bytes() for path in [*paths.PREPARED.iterdir(), paths.AUDIT]}
    assert {path.name for path in files} == {
        "train.parquet", "validation.parquet", "test.parquet", "schema.json", "audit.json",
    }  # fmt: skip
    table = pd.read_parquet(paths.PREPARED / "train.parquet")
    assert list(table) == ["text_a", "label", "source"]
    assert table["label"].dtype == "int64"
    assert json.loads((paths.PREPARED / "schema.json").read_text())["splits"]["train"] == len(table) == 28
    assert capsys.readouterr().out.startswith("train            28 rows, 75.0% are 'no' (the majority baseline)")
    main()
    assert {path: path.read_bytes() for path in files} == files


def test_a_fault_writes_nothing_and_leaves_what_was_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tsv").write_text("t\tl\nx\t\n")
    OmegaConf.save({"data": OWN | {"path": "."}}, "params.yaml")
    paths.write_text(paths.PREPARED / "train.parquet", "old")
    with pytest.raises(UserError) as caught:
        main()
    assert str(caught.value) == "a.tsv:2: column 'l': the label is missing: fill it in or remove the row"
    assert [path.name for path in paths.PREPARED.iterdir()] == ["train.parquet"]
    assert not paths.AUDIT.exists()


def test_alone_a_mistake_ends_with_one_line_and_code_two(tmp_path):
    OmegaConf.save({"data": OWN | {"path": "gone"}}, tmp_path / "params.yaml")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    done = subprocess.run(
        [sys.executable, "-m", "tuneledger.stages.prepare"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: data.path=gone is no folder\n")
