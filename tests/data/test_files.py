from __future__ import annotations

import hashlib

import pytest

from tuneledger.data.files import load
from tuneledger.errors import UserError


def test_loads_the_named_files_with_their_fingerprints(tmp_path):
    (tmp_path / "a.tsv").write_text("t\tl\nx\t0\ny\t1\n")
    (tmp_path / "b.csv").write_text("t,l\nz,1\n")
    tables, sources = load(str(tmp_path), {"test": "b.csv", "validation": None, "train": "a.tsv"}, "t", "l")
    assert list(tables) == ["train", "test"]
    assert tables["test"]["source"].tolist() == [f"{tmp_path}/b.csv:2"]
    sha = hashlib.sha256(b"t\tl\nx\t0\ny\t1\n").hexdigest()
    assert sources[0] == {"split": "train", "file": f"{tmp_path}/a.tsv", "sha256": sha, "rows": 2}
    assert [source["rows"] for source in sources] == [2, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "nowhere"}, "data.path=nowhere is no folder"),
        ({"files": {"validation": "a.tsv"}}, "data.files.train names no file: training needs one"),
        (
            {"files": {"train": "a.tsv", "dev": "b.tsv"}},
            "unknown key data.files.dev: known: train, validation, test",
        ),
        (
            {"files": {"train": "a.tsv", "test": "a.tsv"}},
            "data.files names one file for two splits: a.tsv, a.tsv",
        ),
        ({"files": "a.tsv"}, "data.files=a.tsv must map splits to file names, as in {train: train.tsv}"),
        ({"text": []}, "data.text=[] must be one or two columns, each different and none data.label=l"),
        (
            {"text": ["a", "b", "c"]},
            "data.text=['a', 'b', 'c'] must be one or two columns, each different and none data.label=l",
        ),
        (
            {"text": ["a", "a"]},
            "data.text=['a', 'a'] must be one or two columns, each different and none data.label=l",
        ),
        ({"text": "l"}, "data.text=['l'] must be one or two columns, each different and none data.label=l"),
    ],
)
def test_bad_settings_name_their_key(tmp_path, settings, message):
    with pytest.raises(UserError) as caught:
        load(**{"path": str(tmp_path), "files": {"train": "a.tsv"}, "text": "t", "label": "l"} | settings)
    assert str(caught.value) == message
