"""A user's own files, one per split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from tuneledger.data.on_disk import on_disk
from tuneledger.data.read import read_file
from tuneledger.data.table import same_columns, to_table
from tuneledger.errors import UserError

SPLITS = ("train", "validation", "test")


def load(
    path: str,
    files: dict[str, str | None],
    text: str | list[str],
    label: str,
    reader: Callable[[Path], Iterable[pd.DataFrame]] = read_file,
) -> tuple[dict[str, pd.DataFrame], list[dict[str, Any]]]:
    """Read the files of a folder: tables by split (labels as names) and where they came from.

    Args:
        path: the folder.
        files: split to file name; null leaves a split out.
        text: one or two columns.
        label: the label's column.

    Returns:
        tables in the order train, validation, test; for each a {"split", "file", "sha256", "rows"}.

    Raises:
        UserError: a key that makes no sense, or content that cannot be used, with its line.
    """
    columns = text if isinstance(text, list) else [text]
    if not 1 <= len(columns) <= 2 or len({*columns, label}) <= len(columns):
        raise UserError(f"data.text={columns} must be one or two columns, each different and none data.label={label}")
    if not Path(path).is_dir():
        raise UserError(f"data.path={path} is no folder")
    tables, sources = {}, []
    for split, name in _chosen(files).items():
        file = Path(path) / name
        parts = (to_table(frame, file.as_posix(), text=columns, label=label) for frame in reader(file))
        tables[split] = _below_each_other(parts)
        with file.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        sources.append({"split": split, "file": file.as_posix(), "sha256": digest, "rows": len(tables[split])})
    return tables, sources


def _below_each_other(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One table, on disk; what a part lacks of the columns is empty there."""
    alike = [on_disk(some) for _, some in groupby(parts, key=list)]
    return pd.concat(same_columns(alike), ignore_index=True)


def _chosen(files: dict[str, str | None]) -> dict[str, str]:
    """The splits that have a file, in their usual order."""
    if not isinstance(files, dict):
        raise UserError(f"data.files={files} must map splits to file names, as in {{train: train.tsv}}")
    unknown = [split for split in files if split not in SPLITS]
    if unknown:
        raise UserError(f"unknown key data.files.{unknown[0]}: known: {', '.join(SPLITS)}")
    chosen = {split: str(files[split]) for split in SPLITS if files.get(split)}
    if "train" not in chosen:
        raise UserError("data.files.train names no file: training needs one")
    if len(set(chosen.values())) < len(chosen):
        raise UserError(f"data.files names one file for two splits: {', '.join(chosen.values())}")
    return chosen
