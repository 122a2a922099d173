from __future__ import annotations

import resource
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from tuneledger.data.on_disk import ROWS, on_disk, pieces
from tuneledger.errors import UserError


def part(start: int, rows: int) -> pd.DataFrame:
    numbers = range(start, start + rows)
    return pd.DataFrame({"text": [f"é {n} {'x' * 1000}" for n in numbers], "n": list(numbers)}, index=list(numbers))


def test_the_same_rows_and_types_under_new_numbers():
    parts = [part(0, 3), part(3, 2)[:0], part(3, 2)]
    pd.testing.assert_frame_equal(on_disk(parts), pd.concat(parts, ignore_index=True))


def test_what_it_holds_is_not_in_memory_and_its_file_has_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = pa.total_allocated_bytes()
    table = on_disk(part(start, 100) for start in range(0, 10_000, 100))
    both = pd.concat([table, table], ignore_index=True).assign(more=1)
    assert both["text"].iloc[19_999].startswith("é 9999 x")
    assert both["text"].nbytes > 20e6
    assert pa.total_allocated_bytes() - before < 1e6
    assert not list(tmp_path.iterdir())


def test_the_file_goes_with_the_table():
    def mapped() -> int:
        return Path("/proc/self/maps").read_text(encoding="utf-8").count("(deleted)\n")

    before = mapped()
    table = on_disk([part(0, 1000)])
    assert mapped() == before + 1
    del table
    assert mapped() == before


def test_without_room_it_says_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=rf"^cannot write into {tmp_path}: File too large: texts need room there"):
            on_disk(part(start, 100) for start in range(0, 1000, 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_other_columns_are_refused():
    with pytest.raises(pa.ArrowInvalid, match="schema"):
        on_disk([part(0, 3), part(3, 3).drop(columns="n")])


def test_pieces_are_all_rows():
    table = pd.DataFrame({"n": range(2 * ROWS + 1)})
    assert [len(piece) for piece in pieces(table)] == [ROWS, ROWS, 1]
    assert pd.concat(pieces(table["n"])).tolist() == list(range(2 * ROWS + 1))
