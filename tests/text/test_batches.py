from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tuneledger.text.batches import (
    MEGABATCH,
    TokenizedSplit,
    collate,
    evaluation_batches,
    restore_order,
    share,
    training_batches,
    used_ids,
)

ROWS = [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14], [15]]


def write(path, types: bool = True) -> None:
    """ROWS as an Arrow file in record batches of two rows; labels 0, 1, 2, ..."""
    schema = [("label", pa.int64()), ("input_ids", pa.list_(pa.int32()))]
    if types:
        schema.append(("token_type_ids", pa.list_(pa.int8())))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.schema(schema)) as writer:
        for start in range(0, len(ROWS), 2):
            rows = ROWS[start : start + 2]
            columns = {"label": range(start, start + len(rows)), "input_ids": rows}
            if types:
                columns["token_type_ids"] = [[1] * len(row) for row in rows]
            writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=pa.schema(schema)))


@pytest.fixture
def split(tmp_path) -> TokenizedSplit:
    write(tmp_path / "rows.arrow")
    return TokenizedSplit(tmp_path / "rows.arrow")


class TestTokenizedSplit:
    def test_every_row_of_every_record_batch(self, split):
        assert len(split) == 5
        assert [split[index]["input_ids"].tolist() for index in range(5)] == ROWS
        assert [int(split[index]["label"]) for index in range(5)] == [0, 1, 2, 3, 4]
        assert split[3]["token_type_ids"].tolist() == [1, 1, 1, 1]

    def test_lengths_and_labels(self, split):
        assert split.lengths.tolist() == [3, 1, 2, 4, 1]
        assert split.labels.tolist() == [0, 1, 2, 3, 4]

    def test_without_token_types(self, tmp_path):
        write(tmp_path / "rows.arrow", types=False)
        assert set(TokenizedSplit(tmp_path / "rows.arrow")[0]) == {"label", "input_ids"}


class TestUsedIds:
    def test_each_once_and_ascending_over_all_record_batches_and_splits(self, split, tmp_path):
        assert used_ids([split]).tolist() == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
        with pa.OSFile(str(tmp_path / "other.arrow"), "wb") as sink:
            table = pa.table({"label": [0, 1], "input_ids": pa.array([[7, 3, 7], [30000]], pa.list_(pa.int32()))})
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        other = TokenizedSplit(tmp_path / "other.arrow")
        assert used_ids([other]).tolist() == [3, 7, 30000]
        assert used_ids([split, other]).tolist() == [3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 30000]


class TestCollate:
    def test_pads_on_the_right_to_the_longest(self, split):
        batch = collate([split[0], split[1]], pad_token_id=99)
        assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 99, 99]]
        assert batch["token_type_ids"].tolist() == [[1, 1, 1], [1, 0, 0]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
        assert batch["labels"].tolist() == [0, 1]
        assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}

    def test_pads_to_a_width(self, split):
        batch = collate([split[1], split[2]], pad_token_id=99, width=4)
        assert batch["input_ids"].tolist() == [[8, 99, 99, 99], [9, 10, 99, 99]]
        assert batch["attention_mask"].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0]]


LENGTHS = np.random.default_rng(0).integers(3, 60, 1001)


def padding(batches: list[np.ndarray]) -> int:
    return sum(int(LENGTHS[rows].max()) * len(rows) for rows in batches) - int(LENGTHS.sum())


@pytest.mark.parametrize("group", [True, False])
class TestTrainingBatches:
    def test_every_row_once_and_one_short_batch(self, group):
        batches = training_batches(LENGTHS, 8, group_by_length=group, seed=1, epoch=0)
        assert sorted(np.concatenate(batches).tolist()) == list(range(1001))
        assert sorted(map(len, batches)) == [1] + [8] * 125

    def test_the_same_for_the_same_seed_and_epoch_whatever_else_was_drawn(self, group):
        one = training_batches(LENGTHS, 8, group_by_length=group, seed=1, epoch=3)
        np.random.seed(5)
        two = training_batches(LENGTHS, 8, group_by_length=group, seed=1, epoch=3)
        assert [rows.tolist() for rows in one] == [rows.tolist() for rows in two]

    def test_another_order_for_another_epoch_or_seed(self, group):
        orders = {
            tuple(np.concatenate(training_batches(LENGTHS, 8, group_by_length=group, seed=seed, epoch=epoch)).tolist())
            for seed, epoch in ((1, 0), (1, 1), (2, 0), (0, 1))
        }
        assert len(orders) == 4


def test_grouping_saves_most_of_the_padding():
    grouped, random = (training_batches(LENGTHS, 8, group_by_length=group, seed=1, epoch=0) for group in (True, False))
    assert padding(grouped) < padding(random) / 5


def test_grouped_batches_do_not_come_sorted():
    batches = training_batches(LENGTHS, 8, group_by_length=True, seed=1, epoch=0)
    longest = [int(LENGTHS[rows].max()) for rows in batches]
    assert abs(np.corrcoef(range(len(longest)), longest)[0, 1]) < 0.3


def test_grouping_never_reaches_beyond_a_megabatch():
    size = 2 * MEGABATCH
    order = np.random.default_rng([1, 0]).permutation(len(LENGTHS))
    group_of = {int(row): place // size for place, row in enumerate(order)}
    for rows in training_batches(LENGTHS, 2, group_by_length=True, seed=1, epoch=0):
        assert len({group_of[int(row)] for row in rows}) == 1


def test_evaluation_starts_with_the_longest():
    batches = evaluation_batches(np.array([3, 1, 2, 4, 1]), 2)
    assert [rows.tolist() for rows in batches] == [[3, 0], [2, 1], [4]]


def test_restore_order_undoes_the_batches():
    batches = evaluation_batches(np.array([3, 1, 2, 4, 1]), 2)
    outputs = (np.stack([rows, rows * 10], axis=1).astype(np.float32) for rows in batches)
    restored = restore_order(batches, outputs)
    assert restored.tolist() == [[row, row * 10] for row in range(5)]
    assert restored.dtype == np.float32


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shares_are_equally_large_and_together_the_batch(rows: int, processes: int):
    batch = np.arange(10, 10 + rows)
    shares = [share(batch, process, processes) for process in range(processes)]
    assert {len(mine) for mine, _ in shares} == {-(-rows // processes)}
    assert sorted(np.concatenate([mine[:own] for mine, own in shares])) == batch.tolist()
    assert all((mine[own:] == 10).all() for mine, own in shares)
