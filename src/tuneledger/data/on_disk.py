"""Tables that lie on disk, so that memory holds what is looked at and not every text."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from tuneledger.errors import UserError

ROWS = 10_000  # of a piece: as Python objects a row takes several times the memory that it takes in a file

Rows = TypeVar("Rows", pd.DataFrame, pd.Series)


def on_disk(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The parts below each other, with the same columns and types, in a file of the working directory.

    The file has no name: it is gone with the table, or with the process, however that ends. pandas and Arrow read the
    columns where they lie; strings that an operation makes anew are in memory again.
    """
    try:
        mapped = _written(parts)
    except OSError as error:
        if error.filename:  # what the parts are read from
            raise
        reason = f"{error.strerror or error}: texts need room there while they are read"
        raise UserError(f"cannot write into {Path.cwd()}: {reason}") from error
    table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
    return table.to_pandas(types_mapper={pa.large_string(): pd.StringDtype(na_value=np.nan)}.get)


def _written(parts: Iterable[pd.DataFrame]) -> mmap.mmap:
    """An Arrow file without a name."""
    with tempfile.TemporaryFile(dir=".") as file:
        batches = (pa.RecordBatch.from_pandas(part, preserve_index=False) for part in parts)
        first = next(batches)
        with pa.ipc.new_file(file, first.schema) as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)
        file.flush()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def pieces(table: Rows) -> Iterator[Rows]:
    """Rows of a table, or of a column of it, ROWS at a time."""
    return (table.iloc[start : start + ROWS] for start in range(0, len(table), ROWS))
