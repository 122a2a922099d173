"""Read, check and split the raw data, and audit it.

Reads the section `data` of params.yaml and the files it names. Writes data/prepared/ (one
Parquet file a split, schema.json) and results/prepare/audit.json. Alone: python -m tuneledger.stages.prepare
"""

from __future__ import annotations

import numbers
from pathlib import Path
from typing import Any

import pandas as pd

from tuneledger import paths
from tuneledger.conf import bind, read_params
from tuneledger.data import files as own_files
from tuneledger.data import mrpc
from tuneledger.data.audit import audit, summary
from tuneledger.data.split import apart, resplit
from tuneledger.data.table import encode, label_names, same_columns, slice_columns
from tuneledger.errors import UserError
from tuneledger.stages import run_stage

ROW_GROUP = 100_000  # rows that are in memory, compressed, before they are written


def prepare(
    *,
    format: str,
    path: str,
    files: dict[str, str | None] | None = None,
    text: str | list[str] | None = None,
    label: str | None = None,
    labels: list[Any] | None = None,
    hub: str | None = None,
    revision: str | None = None,
    split: str = "given",
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    split_seed: int = 1,
) -> tuple[dict[str, pd.DataFrame], dict[str, Any], dict[str, Any]]:
    """Prepared splits, their schema and their audit; the keywords are the section `data`.

    Args:
        format: "files" (needs files, text, label) or "mrpc" (needs hub, revision).
        path: the folder with the files.
        files: split to file name; null leaves a split out.
        text: one or two columns.
        label: the label's column.
        labels: class names in order, the last of two being the positive class; null: those found, sorted.
        hub: data set id on the Hugging Face hub, used while `path` holds no MRPC file.
        revision: its commit.
        split: "given", "stratified" or "grouped"; the last two pool the given splits and draw new ones, and grouped
            sees to it that no sentence is in two splits.
        validation_fraction: share of the pool, in (0, 1).
        test_fraction: share of the pool, in [0, 1); at 0 a given test split stays as it is, so that its scores remain
            comparable, and grouped instead leaves out those rows of the pool that share a sentence with it.
        split_seed: of the drawn splits; apart from the training's seed, so that all seeds share their data.

    Returns:
        tables by split (columns text_a, [text_b], label int64, source, other columns as strings), the content
        of schema.json, the content of audit.json: what `audit` gives, the split as drawn, the rows left out.

    Raises:
        UserError: a setting or a row that cannot be used.
    """
    _check_choice("data.format", format, ("files", "mrpc"))
    _check_choice("data.split", split, ("given", "stratified", "grouped"))
    _check_fractions(validation_fraction, test_fraction)
    if isinstance(split_seed, bool) or not isinstance(split_seed, int) or split_seed < 0:
        raise UserError(f"data.split_seed={split_seed} must be a whole number from 0")
    own = {"files": files, "text": text, "label": label}
    remote = {"hub": hub, "revision": revision}
    if format == "files":
        _check_keys(format, needed={"path": path, **own}, unused=remote)
        given, sources = own_files.load(path, files, text, label)
    else:
        _check_keys(format, needed={"path": path, **remote}, unused=own)
        given, sources = mrpc.load(path, hub, revision)
        text = mrpc.TEXT
        if split == "given" and "validation" not in given:
            print("no validation split in these MRPC files: drawing data.validation_fraction of train")
            split, test_fraction = "stratified", 0
    given = dict(zip(given, same_columns(list(given.values())), strict=True))
    splits = _arrange(given, split, validation_fraction, test_fraction, split_seed)
    left_out = sum(map(len, given.values())) - sum(map(len, splits.values()))
    names = label_names(splits["train"], labels)
    splits = {name: encode(table, names) for name, table in splits.items()}
    schema = {
        "text": text if isinstance(text, list) else [text],
        "labels": names,
        "slices": slice_columns(splits),
        "splits": {name: len(table) for name, table in splits.items()},
    }
    return splits, schema, {"split": split, "left_out": left_out, **audit(splits, names, sources)}


def main() -> None:
    section = read_params("data")["data"]
    splits, schema, audited = prepare(**bind(prepare, "data", section))
    with paths.replacing(paths.PREPARED) as folder:
        folder.mkdir()
        write(splits, folder)
        paths.write_json(folder / "schema.json", {**schema, "data": section})
    paths.write_json(paths.AUDIT, audited)
    print("\n".join(summary(audited)))


def write(splits: dict[str, pd.DataFrame], folder: Path) -> None:
    """Each split into a Parquet file under its name."""
    for name, table in splits.items():
        table.to_parquet(folder / f"{name}.parquet", index=False, row_group_size=ROW_GROUP)


def _arrange(
    given: dict[str, pd.DataFrame], split: str, validation_fraction: float, test_fraction: float, seed: int
) -> dict[str, pd.DataFrame]:
    """The splits as given, or new ones drawn from their rows."""
    if split == "given":
        if "validation" not in given:
            raise UserError("there is no validation split: name its file in data.files or set data.split=stratified")
        return given
    kept = {"test": given["test"]} if test_fraction == 0 and "test" in given else {}
    pool = pd.concat([table for name, table in given.items() if name not in kept], ignore_index=True)
    if kept and split == "grouped":
        pool = apart(pool, kept["test"])
    fractions = {"train": 1 - validation_fraction - test_fraction, "validation": validation_fraction}
    if test_fraction:
        fractions["test"] = test_fraction
    return resplit(pool, split, fractions, seed) | kept


def _check_choice(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{key}={value} is not known: choose {', '.join(known)}")


def _check_fractions(validation: float, test: float) -> None:
    for key, value in {"data.validation_fraction": validation, "data.test_fraction": test}.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < 1:
            raise UserError(f"{key}={value} must be a number from 0 to below 1")
    if validation == 0 or validation + test >= 1:
        raise UserError(
            f"data.validation_fraction={validation} and data.test_fraction={test} must leave rows for "
            "validation and for training: above 0, and together below 1"
        )


def _check_keys(format: str, needed: dict[str, Any], unused: dict[str, Any]) -> None:
    for key, value in needed.items():
        if value is None:
            raise UserError(f"missing key data.{key}: data.format={format} needs it")
    for key, value in unused.items():
        if value is not None:
            raise UserError(f"data.{key} has no use with data.format={format}: remove it")


if __name__ == "__main__":
    run_stage(main)
