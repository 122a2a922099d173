from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pytest
import scratch
import yaml

from tuneledger.conf import compose
from tuneledger.errors import UserError
from tuneledger.learn.encoder import load_encoder
from tuneledger.text import tokenize as module
from tuneledger.text.tokenize import load_tokenizer, positions, tokenize

MINILM = scratch.TINY_MODEL["path"]
CLS, SEP = 101, 102


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(path=MINILM, revision=None, max_length=16)


def arrow(path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def write(tmp_path, *rows: tuple) -> tuple:
    """(source, target) with a prepared Parquet of (text_a, [text_b,] label) rows."""
    names = ["text_a", "label"] if len(rows[0]) == 2 else ["text_a", "text_b", "label"]
    pd.DataFrame(rows, columns=names).to_parquet(tmp_path / "in.parquet")
    return tmp_path / "in.parquet", tmp_path / "out.arrow"


class TestLoad:
    def test_is_set_to_cut(self, tokenizer):
        assert tokenizer.model_max_length == 16
        assert tokenizer.is_fast

    @pytest.mark.parametrize("max_length", [0, 3, 513])
    def test_a_length_that_the_model_cannot_take(self, max_length):
        expected = rf"^tokenizer\.max_length = {max_length}: {MINILM} takes from 4 to 512 tokens an example$"
        with pytest.raises(UserError, match=expected):
            load_tokenizer(path=MINILM, revision=None, max_length=max_length)

    @pytest.mark.parametrize("max_length", [4, 512])
    def test_the_extreme_lengths(self, max_length):
        assert load_tokenizer(path=MINILM, revision=None, max_length=max_length).model_max_length == max_length

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"is_fast": False}, "it has no fast tokenizer"),
            ({"pad_token_id": None}, "it has no padding token"),
        ],
    )
    def test_a_tokenizer_that_does_not_fit(self, monkeypatch, change, message):
        strange = SimpleNamespace(**{"is_fast": True, "pad_token_id": 0, **change})
        monkeypatch.setattr(module.AutoTokenizer, "from_pretrained", lambda *_, **__: strange)
        with pytest.raises(UserError, match=rf"^tokenizer\.path = {MINILM}: {message}"):
            load_tokenizer(path=MINILM, revision=None, max_length=16)

    def test_a_model_saved_without_its_tokenizer(self, tmp_path):
        load_encoder(["0", "1"], **scratch.TINY_MODEL).save_pretrained(tmp_path)
        expected = rf"^tokenizer\.path = {tmp_path}: it holds no vocabulary \(tokenizer\.json\); copy "
        with pytest.raises(UserError, match=expected):
            load_tokenizer(path=str(tmp_path), revision=None, max_length=16)

    def test_a_tokenizer_that_is_damaged(self, tmp_path):
        load_encoder(["0", "1"], **scratch.TINY_MODEL).save_pretrained(tmp_path)
        damaged = '{"version": "1.0", "added_tokens": [], "model": {"type": "WordPiece"}}'
        (tmp_path / "tokenizer.json").write_text(damaged)
        with pytest.raises(UserError, match=rf"^model folder {tmp_path} cannot be loaded: "):
            load_tokenizer(path=str(tmp_path), revision=None, max_length=16)

    def test_a_model_that_is_nowhere(self, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(UserError, match="no such folder"):
            load_tokenizer(path="./nowhere", revision=None, max_length=16)

    def test_a_wrong_tokenizer_path_is_blamed_on_the_key_it_stands_in(self):
        with pytest.raises(UserError, match=r"^tokenizer\.path = \./nowhere"):
            load_tokenizer(path="./nowhere", revision=None, max_length=16)


@pytest.mark.parametrize(
    ("config", "reach"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "deberta", "max_position_embeddings": None}, 1_000_000),
        ({"model_type": "rotary"}, 1_000_000),
    ],
)
def test_positions(config, reach):
    assert positions(SimpleNamespace(**config)) == reach


class TestTokenize:
    def test_single_texts(self, tokenizer, tmp_path):
        source, target = write(tmp_path, ("hello", 1), ("hello hello", 0))
        assert tokenize(tokenizer, source, target) == {"rows": 2, "tokens": 7, "truncated": 0, "longest": 4}
        hello = tokenizer.convert_tokens_to_ids("hello")
        assert arrow(target).to_pylist() == [
            {"label": 1, "input_ids": [CLS, hello, SEP], "token_type_ids": [0, 0, 0]},
            {"label": 0, "input_ids": [CLS, hello, hello, SEP], "token_type_ids": [0, 0, 0, 0]},
        ]

    def test_pairs(self, tokenizer, tmp_path):
        source, target = write(tmp_path, ("hello", "world", 0))
        assert tokenize(tokenizer, source, target) == {"rows": 1, "tokens": 5, "truncated": 0, "longest": 5}
        hello, world = tokenizer.convert_tokens_to_ids(["hello", "world"])
        assert arrow(target).to_pylist() == [
            {"label": 0, "input_ids": [CLS, hello, SEP, world, SEP], "token_type_ids": [0, 0, 0, 1, 1]}
        ]

    def test_too_long_pairs_lose_of_the_longer_text(self, tokenizer, tmp_path):
        rows = ("hello " * 30, "world world", 0), ("hello hello", "world " * 30, 0), ("hello", "world", 1)
        source, target = write(tmp_path, *rows)
        assert tokenize(tokenizer, source, target) == {"rows": 3, "tokens": 37, "truncated": 2, "longest": 16}
        hello, world = tokenizer.convert_tokens_to_ids(["hello", "world"])
        assert arrow(target)["input_ids"].to_pylist() == [
            [CLS, *[hello] * 11, SEP, world, world, SEP],
            [CLS, hello, hello, SEP, *[world] * 11, SEP],
            [CLS, hello, SEP, world, SEP],
        ]

    def test_exactly_max_length_is_not_cut(self, tokenizer, tmp_path):
        source, target = write(tmp_path, ("hello " * 14, 0), ("hello " * 15, 0))
        assert tokenize(tokenizer, source, target) == {"rows": 2, "tokens": 32, "truncated": 1, "longest": 16}

    def test_batches_keep_the_order_and_bound_the_memory(self, tokenizer, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "ROWS", 3)
        source, target = write(tmp_path, *[("hello " * (row % 4 + 1), row) for row in range(8)])
        counts = tokenize(tokenizer, source, target)
        table = arrow(target)
        assert [len(chunk) for chunk in table["label"].chunks] == [3, 3, 2]
        assert table["label"].to_pylist() == list(range(8))
        assert [len(ids) for ids in table["input_ids"].to_pylist()] == [3, 4, 5, 6, 3, 4, 5, 6]
        assert counts == {"rows": 8, "tokens": 36, "truncated": 0, "longest": 6}

    def test_column_types(self, tokenizer, tmp_path):
        source, target = write(tmp_path, ("hello", 1))
        tokenize(tokenizer, source, target)
        assert arrow(target).schema == pa.schema(
            [("label", pa.int64()), ("input_ids", pa.list_(pa.int32())), ("token_type_ids", pa.list_(pa.int8()))]
        )

    def test_no_token_types_where_the_model_has_none(self, tmp_path):
        tokenizer = load_tokenizer(path=MINILM, revision=None, max_length=16)
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        source, target = write(tmp_path, ("hello", 1))
        tokenize(tokenizer, source, target)
        assert arrow(target).schema.names == ["label", "input_ids"]

    def test_a_failure_leaves_nothing(self, tokenizer, tmp_path):
        source, target = write(tmp_path, ("hello", "one"))
        with pytest.raises(pa.ArrowException):
            tokenize(tokenizer, source, target)
        assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_a_hub_model_that_is_not_in_the_cache_is_one_line_offline(tmp_path):
    """Real transformers, in the stage that meets the hub first."""
    project = scratch.copy_project(tmp_path / "project", rows=20)
    scratch.stage(project, "prepare")
    (project / "params.yaml").write_text(yaml.safe_dump(compose(["model=bert_base"])))
    (tmp_path / "home").mkdir()
    done = scratch.stage(project, "tokenize", check=False, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: model google-bert/bert-base-uncased is neither in the local cache nor to be had from the hub ("
    )
    assert done.stderr.endswith(", or choose a model that is installed: model=minilm\n")
    assert done.stderr.count("\n") == 1
    assert not (project / "data" / "tokenized").exists()
