"""One table file as data frames of plain Python values, whatever its format; every fault names its line.

Each reader gives the rows a few thousand at a time, as object columns and an index that says where a row stands: the
line of a text file on which the row begins (the header is line 1), or the row of a Parquet file, from 1.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from tuneledger.data.on_disk import ROWS
from tuneledger.errors import UserError

# Rows of a JSONL file may differ in their keys, so the table can be far larger than the file.
MAX_COLUMNS = 1000

Frames = Iterator[pd.DataFrame]


def read_file(path: Path, rows: int = ROWS) -> Frames:
    """Read `path` by its suffix: .tsv, .csv, .jsonl or .parquet; at most `rows` rows a frame.

    Raises:
        UserError: unknown suffix, missing or empty file, no rows, a duplicate column, or broken content.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: unknown suffix {path.suffix!r}; known: {', '.join(READERS)}")
    return reader(path, rows)


def read_tsv(path: Path, rows: int = ROWS) -> Frames:
    """Tab separated, a header line, no quoting: a double quote is a character like any other."""
    lines = ((line, text.removesuffix("\n").removesuffix("\r")) for line, text in _lines(path))
    return _tables(path, ((line, text.split("\t")) for line, text in lines if text), rows)


def read_csv(path: Path, rows: int = ROWS) -> Frames:
    """Comma separated, a header line, standard quoting: a quoted field may hold commas and line breaks."""
    return _tables(path, _csv_rows(path), rows)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    # A lone carriage return ends a line too, as in files of the oldest Macs.
    reader = csv.reader((part for _, text in _lines(path) for part in io.StringIO(text, newline="")), strict=True)
    limit = csv.field_size_limit(2**31 - 1)  # fields are measured once, for all formats, in table.py
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{line}: broken CSV: {error}; check the double quotes of this row") from error
    finally:
        csv.field_size_limit(limit)


def read_jsonl(path: Path, rows: int = ROWS) -> Frames:
    """One JSON object a line; a key that a row lacks is None there, if a row before or in its frame has it."""
    found = ((line, _json_object(text, f"{path}:{line}")) for line, text in _lines(path) if text.strip())
    columns: dict[str, None] = {}
    for part in _parts(found, rows):
        columns |= dict.fromkeys(name for _, row in part for name in row)
        if len(columns) > MAX_COLUMNS:
            raise UserError(f"{path}: {len(columns):,} different keys, at most {MAX_COLUMNS:,} columns are read")
        values = {name: [row.get(name) for _, row in part] for name in columns}
        yield _frame(values, [line for line, _ in part])
    if not columns:
        raise UserError(f"{path}: no rows")


def read_parquet(path: Path, rows: int = ROWS) -> Frames:
    """A Parquet file; nulls are None."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check_file(path)
    first = 1
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _no_duplicates(path, names)
            for batch in file.iter_batches(rows):
                values = {name: batch.column(name).to_pylist() for name in names}
                yield _frame(values, range(first, first + batch.num_rows))
                first += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a readable Parquet file: {reason}") from error
    if first == 1:
        raise UserError(f"{path}: no rows" + (", only a header" if names else ""))


READERS = {".tsv": read_tsv, ".csv": read_csv, ".jsonl": read_jsonl, ".parquet": read_parquet}


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file; data.path and data.files say where the data lies")
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Each line with its number and its end, which is a line feed; a leading byte-order mark is dropped."""
    _check_file(path)
    offset = 0
    with path.open("rb") as file:
        for line, content in enumerate(file, start=1):
            try:
                text = content.decode("utf-8")
            except UnicodeDecodeError as error:
                place = f"byte {offset + error.start} is 0x{content[error.start]:02x}"
                raise UserError(f"{path}:{line}: not UTF-8 ({place}): save it as UTF-8") from error
            if "\0" in text:
                raise UserError(f"{path}:{line}: holds a NUL byte, so it is UTF-16 or no text: save it as UTF-8")
            yield line, text.removeprefix("\ufeff") if line == 1 else text
            offset += len(content)


def _parts(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of at most `size` rows."""
    rows = iter(rows)
    while part := list(islice(rows, size)):
        yield part


def _tables(path: Path, lines: Iterator[tuple[int, list[str]]], size: int) -> Frames:
    """Lines of fields, the header first, as columns."""
    _, header = next(lines, (0, []))
    if not header:
        raise UserError(f"{path}: the file is empty")
    header = [name or f"column_{place}" for place, name in enumerate(header, start=1)]  # pandas' nameless index
    _no_duplicates(path, header)
    empty = True
    for part in _parts(lines, size):
        empty = False
        for line, fields in part:
            if len(fields) != len(header):
                raise UserError(f"{path}:{line}: {len(fields)} fields, but the header has {len(header)}")
        columns = zip(*(fields for _, fields in part), strict=True)
        yield _frame(dict(zip(header, map(list, columns), strict=True)), [line for line, _ in part])
    if empty:
        raise UserError(f"{path}: no rows, only a header")


def _frame(values: dict[str, list[Any]], lines: Iterable[int]) -> pd.DataFrame:
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
