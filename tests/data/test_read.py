from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from tuneledger.data.read import read_file as read_frames
from tuneledger.errors import UserError

TSV = b"text\tlabel\none\t0\ntwo\t1\n"


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read_file(path: Path) -> pd.DataFrame:
    """The only frame of a small file."""
    [frame] = read_frames(path)
    return frame


def fault(path: Path) -> str:
    """The one-line message with which reading fails, its folder cut off."""
    with pytest.raises(UserError) as caught:
        list(read_frames(path))
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize(
    "content",
    [TSV, TSV.rstrip(), TSV.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + TSV],
    ids=["plain", "no last line break", "windows", "byte-order mark"],
)
def test_tsv_variants_read_alike(tmp_path, content):
    frame = read_file(write(tmp_path, "a.tsv", content))
    assert frame.to_dict("list") == {"text": ["one", "two"], "label": ["0", "1"]}
    assert list(frame.index) == [2, 3]


def test_tsv_takes_quotes_and_odd_line_separators_as_text(tmp_path):
    frame = read_file(write(tmp_path, "a.tsv", 'text\tlabel\n" half\t0\na\u2028b\x85c\x0bd\t1\n\n"x"\t1\n'))
    assert frame["text"].tolist() == ['" half', "a\u2028b\x85c\x0bd", '"x"']
    assert list(frame.index) == [2, 3, 5]


CONTENTS = {
    "a.tsv": 'text\tlabel\n" one\t0\n\ntwo\t1\nthree\t0\nfour\t1\nfive\t0\n',
    "a.csv": 'text,label\n"one\n",0\n\ntwo,1\nthree,0\r\nfour,1\rfive,0\n',
    "a.jsonl": '{"text": "one"}\n\n{"text": "two", "label": 1}\n{"label": 0}\n{"x": 1}\n{"text": 5}\n',
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_frames_of_a_few_rows_are_the_whole_in_pieces(tmp_path, name, rows):
    path = write(tmp_path, name, CONTENTS[name])
    [whole] = read_frames(path)
    parts = list(read_frames(path, rows))
    assert [len(part) for part in parts] == [rows] * (5 // rows) + [5 % rows] * (5 % rows > 0)
    pieces = pd.concat(parts).astype(object)
    pd.testing.assert_frame_equal(pieces.where(pieces.notna(), None), whole)


def test_parquet_in_frames_of_a_few_rows(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": list("abcde")}).to_parquet(path)
    parts = list(read_frames(path, 2))
    assert [list(part.index) for part in parts] == [[1, 2], [3, 4], [5]]
    assert [part["text"].tolist() for part in parts] == [["a", "b"], ["c", "d"], ["e"]]


def test_csv_quoting_and_lines(tmp_path):
    frame = read_file(write(tmp_path, "a.csv", 'text,label\n"a, ""b""\nc",0\n\nd,1\n'))
    assert frame.to_dict("list") == {"text": ['a, "b"\nc', "d"], "label": ["0", "1"]}
    assert list(frame.index) == [2, 5]


def test_csv_nameless_index_column_gets_a_name(tmp_path):
    assert list(read_file(write(tmp_path, "a.csv", ",text\n0,a\n"))) == ["column_1", "text"]


def test_csv_field_beyond_csvs_own_limit_is_read_and_the_limit_restored(tmp_path):
    before = csv.field_size_limit()
    frame = read_file(write(tmp_path, "a.csv", f"text,label\n{'x' * (before + 1)},0\n"))
    assert len(frame["text"].iloc[0]) == before + 1
    assert csv.field_size_limit() == before


def test_jsonl_keeps_types_and_fills_missing_keys(tmp_path):
    frame = read_file(write(tmp_path, "a.jsonl", '{"text":"a","label":1}\n\n{"label":true,"text":"b","k":[1]}\n'))
    assert frame.to_dict("list") == {"text": ["a", "b"], "label": [1, True], "k": [None, [1]]}
    assert list(frame.index) == [1, 3]


def test_parquet_counts_rows_and_gives_none_for_null(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": ["a", None], "label": pd.array([1, None], dtype="Int64")}).to_parquet(path)
    frame = read_file(path)
    assert frame.to_dict("list") == {"text": ["a", None], "label": [1, None]}
    assert list(frame.index) == [1, 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", b"", "a.xlsx: unknown suffix '.xlsx'; known: .tsv, .csv, .jsonl, .parquet"),
        ("a.tsv", b"", "a.tsv: the file is empty"),
        ("a.tsv", b"\n\n", "a.tsv: the file is empty"),
        ("a.csv", b"", "a.csv: the file is empty"),
        ("a.parquet", b"", "a.parquet: the file is empty"),
        ("a.jsonl", b"\n", "a.jsonl: no rows"),
        ("a.tsv", b"text\tlabel\n", "a.tsv: no rows, only a header"),
        ("a.csv", b"text,label\n", "a.csv: no rows, only a header"),
        ("a.tsv", b"t\tl\na\t1\nb\n", "a.tsv:3: 1 fields, but the header has 2"),
        ("a.tsv", b"t\tl\na\t1\t2\n", "a.tsv:2: 3 fields, but the header has 2"),
        ("a.csv", b't,l\n"a\nb",1\nc\n', "a.csv:4: 1 fields, but the header has 2"),
        (
            "a.csv",
            b't,l\nx,0\n"a,1\n',
            "a.csv:3: broken CSV: unexpected end of data; check the double quotes of this row",
        ),
        ("a.tsv", b"t\tl\tt\na\tb\tc\n", "a.tsv: duplicate column 't' in the header: rename or remove one"),
        ("a.tsv", b"t\tl\na\t1\ncaf\xe9\t0\n", "a.tsv:3: not UTF-8 (byte 11 is 0xe9): save it as UTF-8"),
        ("a.csv", "t,l\na,1\n".encode("utf-16"), "a.csv:1: not UTF-8 (byte 0 is 0xff): save it as UTF-8"),
        (
            "a.tsv",
            b"t\tl\na\0\t1\n",
            "a.tsv:2: holds a NUL byte, so it is UTF-16 or no text: save it as UTF-8",
        ),
        ("a.jsonl", b'{"t":"a"}\n{"t" "b"}\n', "a.jsonl:2:6: not JSON: Expecting ':' delimiter"),
        (
            "a.jsonl",
            b'{"t":"a"}\n{"\\uD800":1}\n',
            "a.jsonl:2: a key holds half of a surrogate pair, which is no character",
        ),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: expected a JSON object in braces, found list"),
    ],
)
def test_faults_name_the_file_and_line(tmp_path, name, content, message):
    assert fault(write(tmp_path, name, content)) == message


def test_a_missing_file_says_which_settings_name_it(tmp_path):
    assert fault(tmp_path / "a.tsv") == "a.tsv: no such file; data.path and data.files say where the data lies"


def test_deep_json_is_no_crash(tmp_path):
    assert fault(write(tmp_path, "a.jsonl", "[" * 200_000)).startswith("a.jsonl:1: not readable as JSON: ")


def test_jsonl_with_other_keys_in_every_row_is_refused(tmp_path):
    rows = "\n".join(f'{{"k{number}": 1}}' for number in range(1001))
    assert fault(write(tmp_path, "a.jsonl", rows)) == "a.jsonl: 1,001 different keys, at most 1,000 columns are read"


def test_a_file_that_is_not_parquet(tmp_path):
    assert fault(write(tmp_path, "a.parquet", b"no parquet")).startswith("a.parquet: not a readable Parquet file: ")
