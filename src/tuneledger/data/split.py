"""Seeded splits: stratified by label, or also keeping rows that share a sentence together.

A split depends on the seed and on the rows, not on their order in the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tuneledger.data.on_disk import ROWS, on_disk, pieces
from tuneledger.data.table import sentence_ids, text_slots
from tuneledger.errors import UserError


def resplit(pool: pd.DataFrame, kind: str, fractions: dict[str, float], seed: int) -> dict[str, pd.DataFrame]:
    """Divide `pool` into new splits of about the given fractions; rows keep their order within a split.

    Args:
        pool: prepared columns; label may be names or numbers.
        kind: "stratified" or "grouped"; grouped puts rows connected by shared sentences into one split.
        fractions: share of each split, train first, summing to 1.
        seed: chooses among equally good splits.

    Raises:
        UserError: a class has too few rows, or connected rows leave a split without one of the classes.
    """
    counts = Counter(pool["label"])
    rarest, least = min(counts.items(), key=lambda item: item[1])
    if least < len(fractions):
        raise UserError(
            f"class {rarest!r} has {least} row(s), but data.split={kind} makes {len(fractions)} splits "
            "and each needs one: add rows, merge classes, or make fewer splits (data.test_fraction=0)"
        )
    order = _by_content(pool)
    groups = connected(pool)[order] if kind == "grouped" else np.arange(len(pool))
    chosen = np.empty(len(pool), dtype=np.int8)
    chosen[order] = allot(groups, pool["label"].to_numpy()[order], fractions, seed)
    splits = {name: _where(chosen == place, pool) for place, name in enumerate(fractions)}
    for name, split in splits.items():
        missing = sorted(set(counts) - set(split["label"]))
        if missing:
            largest = np.bincount(groups).max()
            raise UserError(
                f"data.split={kind} leaves no row of class {missing[0]!r} for {name}: "
                f"{largest:,} of {len(pool):,} rows are connected by shared sentences and must stay together"
            )
    return splits


def apart(pool: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """The rows of `pool` that hold no sentence of `test`, in their order.

    Only rows that hold one themselves go, the fewest possible: what was connected to test through them alone
    shares nothing with it any more.

    Raises:
        UserError: a class is left with too few rows for train and validation.
    """
    sentence = sentence_ids(pd.concat([pool, test], ignore_index=True))
    free = ~np.isin(sentence[: len(pool)], sentence[len(pool) :]).any(axis=1)
    before, after = Counter(pool["label"]), Counter(pool["label"][free])
    for label, n in before.items():
        if after[label] < min(n, 2):  # train and validation need one each
            raise UserError(
                f"data.split=grouped leaves {after[label]} of {n:,} row(s) of class {label!r} for train and "
                "validation: the others share a sentence with the given test split; set data.test_fraction above 0, "
                "which draws test anew"
            )
    return _where(free, pool)


def connected(rows: pd.DataFrame) -> np.ndarray:
    """For each row the number of its group: rows that share a sentence, directly or through others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    sentence = sentence_ids(rows)  # [rows, 1 or 2]
    row = np.repeat(np.arange(len(rows), dtype=np.int32), sentence.shape[1])
    nodes = len(rows) + int(sentence.max()) + 1
    edges = coo_array((np.ones(len(row), dtype=np.int8), (row, len(rows) + sentence.ravel())), shape=(nodes, nodes))
    return connected_components(edges, directed=False)[1][: len(rows)]


def allot(groups: Sequence[int], labels: Sequence, fractions: dict[str, float], seed: int) -> np.ndarray:
    """For each row the place of its split in `fractions`; whole groups at a time, label shares as even as they allow.

    Largest groups first, each goes where its labels are most wanting (Sechidis et al., ECML 2011). With
    groups of one row every class reaches every split if it has as many rows as there are splits.
    """
    group = pd.factorize(np.asarray(groups))[0]
    codes, classes = pd.factorize(np.asarray(labels))
    sizes = np.bincount(group)
    members, ends = np.argsort(group, kind="stable"), np.cumsum(sizes)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    totals = np.bincount(codes, minlength=len(classes)).tolist()
    target = [[share * n for n in totals] for share in fractions.values()]
    open_rows = [list(wanted) for wanted in target]
    filled = [0] * len(target)
    chosen = np.empty(len(codes), dtype=np.int8)
    for number in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        rows = members[ends[number] - sizes[number] : ends[number]]
        counts = Counter(codes[rows].tolist())
        # between splits that want the rows equally, the one which is less full
        scores = [
            (*_want(counts, open_rows[place], target[place]), -filled[place] / share)
            for place, share in enumerate(fractions.values())
        ]
        best = max(range(len(scores)), key=scores.__getitem__)
        filled[best] += len(rows)
        for code, n in counts.items():
            open_rows[best][code] -= n
        chosen[rows] = best
    return chosen


def _want(counts: Counter[int], open_rows: list[float], target: list[float]) -> tuple[int, float]:
    """How much a split wants these rows: the labels it has none of yet, then its unmet share of each label.

    The unmet share is taken halfway through adding the rows; a new label counts only if the rows fit.
    """
    new = sum(open_rows[code] == target[code] and n <= max(1, target[code]) for code, n in counts.items())
    unmet = sum(n * (open_rows[code] - n / 2) / target[code] for code, n in counts.items())
    return new, unmet


def _by_content(pool: pd.DataFrame) -> np.ndarray:
    """Row numbers in the order of texts and labels, which does not depend on that of the rows but for equal ones."""
    keys = [*text_slots(pool), "label"]
    table = pa.Table.from_pandas(pool[keys], preserve_index=False)
    return pc.sort_indices(table, sort_keys=[(key, "ascending") for key in keys]).to_numpy()


def _where(wanted: np.ndarray, pool: pd.DataFrame) -> pd.DataFrame:
    """The wanted rows, in their order."""
    parts = np.split(wanted, range(ROWS, len(pool), ROWS))
    return on_disk(piece[part] for piece, part in zip(pieces(pool), parts, strict=True))
