"""Input columns as the prepared table: text_a, text_b, label, source, then the rest as strings.

Until `encode`, the column label holds label names; afterwards the index of the name.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pandas as pd

from tuneledger.data.on_disk import pieces
from tuneledger.errors import UserError

TEXT = ("text_a", "text_b")
RESERVED = (*TEXT, "label", "source")
# A million characters are some 170,000 words: no encoder reads that, a lost line break or quote makes it.
MAX_FIELD = 1_000_000
MAX_SLICE_VALUES = 50


def to_table(frame: pd.DataFrame, file: str, *, text: list[str], label: str) -> pd.DataFrame:
    """Rows of one file, checked, in the prepared columns; `label` holds names.

    Args:
        frame: plain Python values, the index telling line or row.
        file: the name that `source` and every message give, as in "data/raw/twins/train.tsv".
        text: one or two column names.
        label: the label's column name.

    Raises:
        UserError: a column missing or clashing, a text blank or no text, a label missing, a field too long.
    """
    for name in [*text, label]:
        if name not in frame:
            raise UserError(f"{file}: no column {name!r}; found: {', '.join(map(repr, frame.columns))}")
    extra = [name for name in frame if name not in {*text, label}]
    clash = [name for name in extra if name in RESERVED]
    if clash:
        raise UserError(
            f"{file}: the column name {clash[0]!r} is reserved: rename it or make it data.text or data.label"
        )
    places = [f"{file}:{line}" for line in frame.index]
    columns = {slot: _column(_text, frame[name], name, places) for slot, name in zip(TEXT, text, strict=False)}
    columns["label"] = _column(_label, frame[label], label, places)
    columns["source"] = places
    columns |= {name: _column(_string, frame[name], name, places) for name in extra}
    return pd.DataFrame(columns, dtype="str")


def same_columns(tables: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """The same columns in every table; one that a table lacks is empty there."""
    names = list(dict.fromkeys(name for table in tables for name in table))
    return [table.reindex(columns=names, fill_value="") for table in tables]


def label_names(train: pd.DataFrame, labels: list[Any] | None) -> list[str]:
    """The classes in order: `labels` if given, else those of `train`, whole numbers by value.

    Raises:
        UserError: fewer than two classes, given or found in the training rows, or a name given twice.
    """
    found = sorted(set(train["label"]))
    if len(found) < 2:
        raise UserError(
            f"all {len(train):,} training rows have the label {found[0]!r} "
            f"(first: {train['source'].iloc[0]}): a classifier needs two classes"
        )
    if labels is None:
        whole = all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in found)
        return sorted(found, key=int) if whole else found
    try:
        names = [label_name(value) for value in labels] if isinstance(labels, list) else []
    except ValueError:
        names = []
    if None in names or len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"data.labels={labels} must be a list of two or more different names")
    return names


def encode(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The table with label names replaced by their index in `names` (int64).

    Raises:
        UserError: a label that is not one of `names`.
    """
    codes = table["label"].map({name: index for index, name in enumerate(names)})
    unknown = codes.isna()
    if unknown.any():
        row = table[unknown].iloc[0]
        raise UserError(
            f"{row['source']}: the label {row['label']!r} is not one of {', '.join(names)}; "
            "data.labels may list them all"
        )
    return table.assign(label=codes.astype("int64"))


def slice_columns(splits: dict[str, pd.DataFrame]) -> list[str]:
    """Extra columns with few values (2 to 50, fewer than half the rows), to break scores down by."""
    rows = pd.concat(splits.values(), ignore_index=True)
    most = min(MAX_SLICE_VALUES, (len(rows) - 1) // 2)
    return [name for name in rows if name not in RESERVED and 2 <= _distinct(rows[name], most) <= most]


def _distinct(values: pd.Series, most: int) -> int:
    """How many different values there are, or some number above `most`."""
    found: set[str] = set()
    for piece in pieces(values):
        found.update(piece.unique())
        if len(found) > most:
            break
    return len(found)


def text_slots(table: pd.DataFrame) -> list[str]:
    """The text columns that a prepared table has: text_a, and text_b for pairs."""
    return [name for name in TEXT if name in table]


def sentence_ids(table: pd.DataFrame) -> np.ndarray:
    """[rows, 1 or 2] numbers, equal where texts are: case and the amount of white space do not matter.

    Texts are told apart by 64 bits: in a million rows any two of them are confused once in ten million times.
    """
    hashes = np.concatenate([_hashes(table[slot]) for slot in text_slots(table)])
    return np.unique(hashes, return_inverse=True)[1].reshape(-1, len(table)).T


def _hashes(texts: pd.Series) -> np.ndarray:
    same = (np.array([" ".join(text.split()).casefold() for text in part], dtype=object) for part in pieces(texts))
    return np.concatenate([pd.util.hash_array(part, categorize=False) for part in same])


def label_name(value: Any) -> str | None:
    """A class name from a cell: 1, 1.0 and "1" are "1", true is "true", None, NaN and "" are no label.

    Raises:
        ValueError: a fraction, a list or anything else that names no class.
    """
    if isinstance(value, str):
        name = value.strip()
        return None if name.casefold() in {"", "nan"} else name
    if value is None or value != value:
        return None
    if isinstance(value, list | dict | bytes) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(f"{value!r} names no class")
    return _plain(value)


def _column(convert: Any, values: pd.Series, name: str, places: list[str]) -> list[str]:
    strings = []
    for value, place in zip(values, places, strict=True):
        try:
            strings.append(_storable(convert(value)))
        except ValueError as error:
            raise UserError(f"{place}: column {name!r}: {error}") from error
    return strings


def _text(value: Any) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError("the text is empty: fill it in or remove the row")
    if not isinstance(value, str):
        raise ValueError(f"expected a text, found {type(value).__name__} {str(value)[:40]}")
    return value


def _label(value: Any) -> str:
    name = label_name(value)
    if name is None:
        raise ValueError("the label is missing: fill it in or remove the row")
    return name


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None or value != value else _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # integers with gaps come out of many tools as 1.0
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, bool | list | dict) else str(value)


def _storable(value: str) -> str:
    if len(value) > MAX_FIELD:
        raise ValueError(f"{len(value):,} characters, at most {MAX_FIELD:,} are read")
    if "\0" in value:
        raise ValueError("holds a NUL character")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("holds half of a surrogate pair, which is no character") from None
    return value
