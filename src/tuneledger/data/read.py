"""One table file as a data frame of plain Python values, whatever its format; every fault names its line.

Each reader gives object columns and an index that says where a row stands: the line of a text file on which
the row begins (the header is line 1), or the row of a Parquet file, from 1.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from tuneledger.errors import UserError

# Rows of a JSONL file may differ in their keys, so the table can be far larger than the file.
MAX_COLUMNS = 1000


def read_file(path: Path) -> pd.DataFrame:
    """Read `path` by its suffix: .tsv, .csv, .jsonl or .parquet.

    Raises:
        UserError: unknown suffix, missing or empty file, no rows, a duplicate column, or broken content.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: unknown suffix {path.suffix!r}; known: {', '.join(READERS)}")
    return reader(path)


def read_tsv(path: Path) -> pd.DataFrame:
    """Tab separated, a header line, no quoting: a double quote is a character like any other."""
    rows = [(line, text.removesuffix("\r")) for line, text in enumerate(_text(path).split("\n"), start=1)]
    return _table(path, [(line, text.split("\t")) for line, text in rows if text])


def read_csv(path: Path) -> pd.DataFrame:
    """Comma separated, a header line, standard quoting: a quoted field may hold commas and line breaks."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    limit = csv.field_size_limit(2**31 - 1)  # fields are measured once, for all formats, in table.py
    rows = []
    line = 1
    try:
        for fields in reader:
            if fields:
                rows.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{line}: broken CSV: {error}; check the double quotes of this row") from error
    finally:
        csv.field_size_limit(limit)
    return _table(path, rows)


def read_jsonl(path: Path) -> pd.DataFrame:
    """One JSON object a line; a key that a row lacks is None there."""
    rows = {}
    for line, text in enumerate(_text(path).split("\n"), start=1):
        if text.strip():
            rows[line] = _json_object(text, f"{path}:{line}")
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    if len(columns) > MAX_COLUMNS:
        raise UserError(f"{path}: {len(columns):,} different keys, at most {MAX_COLUMNS:,} columns are read")
    values = {name: [row.get(name) for row in rows.values()] for name in columns}
    return _frame(path, values, list(rows))


def read_parquet(path: Path) -> pd.DataFrame:
    """A Parquet file; nulls are None."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    _bytes(path)
    try:
        table = pq.ParquetFile(path).read()
        _no_duplicates(path, table.column_names)
        values = {name: table.column(name).to_pylist() for name in table.column_names}
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a readable Parquet file: {reason}") from error
    return _frame(path, values, list(range(1, table.num_rows + 1)))


READERS = {".tsv": read_tsv, ".csv": read_csv, ".jsonl": read_jsonl, ".parquet": read_parquet}


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path}: no such file; data.path and data.files say where the data lies")
    content = path.read_bytes()
    if not content:
        raise UserError(f"{path}: the file is empty")
    return content


def _text(path: Path) -> str:
    """The file as text, a leading byte-order mark dropped."""
    content = _bytes(path)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: not UTF-8 (byte {error.start} is 0x{content[error.start]:02x}): save it as UTF-8"
        ) from error
    nul = text.find("\0")
    if nul >= 0:
        line = text.count("\n", 0, nul) + 1
        raise UserError(f"{path}:{line}: holds a NUL byte, so it is UTF-16 or no text: save it as UTF-8")
    return text.removeprefix("\ufeff")


def _table(path: Path, rows: list[tuple[int, list[str]]]) -> pd.DataFrame:
    """Lines of fields, the header first, as columns."""
    if not rows:
        raise UserError(f"{path}: the file is empty")
    (_, header), *body = rows
    header = [name or f"column_{place}" for place, name in enumerate(header, start=1)]  # pandas' nameless index
    _no_duplicates(path, header)
    for line, fields in body:
        if len(fields) != len(header):
            raise UserError(f"{path}:{line}: {len(fields)} fields, but the header has {len(header)}")
    columns = zip(*(fields for _, fields in body), strict=True) if body else ([] for _ in header)
    return _frame(path, dict(zip(header, map(list, columns), strict=True)), [line for line, _ in body])


def _frame(path: Path, values: dict[str, list[Any]], lines: list[int]) -> pd.DataFrame:
    if not lines:
        raise UserError(f"{path}: no rows" + (", only a header" if values else ""))
    return pd.DataFrame(values, index=lines, dtype=object)


def _no_duplicates(path: Path, names: list[str]) -> None:
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise UserError(f"{path}: duplicate column {name!r} in the header: rename or remove one")


def _json_object(text: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}:{error.colno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not readable as JSON: {error}") from error
    if isinstance(row, dict) and "\\ud" in text.lower() and not _encodable("".join(row)):
        raise UserError(f"{place}: a key holds half of a surrogate pair, which is no character")
    if not isinstance(row, dict):
        raise UserError(f"{place}: expected a JSON object in braces, found {type(row).__name__}")
    return row


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
