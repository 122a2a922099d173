"""Seeded splits: stratified by label, or also keeping rows that share a sentence together.

A split depends on the seed and on the rows, not on their order in the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

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
    pool = pool.reset_index(drop=True)
    order = pool.sort_values([*text_slots(pool), "label"], kind="stable").index.to_numpy()
    rows = pool.loc[order]
    groups = connected(rows) if kind == "grouped" else np.arange(len(rows))
    chosen = np.array(allot(groups, rows["label"].tolist(), fractions, seed))
    splits = {name: pool.loc[np.sort(order[chosen == name])] for name in fractions}
    for name, split in splits.items():
        missing = sorted(set(counts) - set(split["label"]))
        if missing:
            largest = np.bincount(groups).max()
            raise UserError(
                f"data.split={kind} leaves no row of class {missing[0]!r} for {name}: "
                f"{largest:,} of {len(pool):,} rows are connected by shared sentences and must stay together"
            )
    return {name: split.reset_index(drop=True) for name, split in splits.items()}


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
    return pool[free]


def connected(rows: pd.DataFrame) -> np.ndarray:
    """For each row the number of its group: rows that share a sentence, directly or through others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    sentence = sentence_ids(rows)  # [rows, 1 or 2]
    row = np.repeat(np.arange(len(rows)), sentence.shape[1])
    nodes = len(rows) + int(sentence.max()) + 1
    edges = coo_array((np.ones(len(row)), (row, len(rows) + sentence.ravel())), shape=(nodes, nodes))
    return connected_components(edges, directed=False)[1][: len(rows)]


def allot(groups: Sequence[int], labels: list[str], fractions: dict[str, float], seed: int) -> list[str]:
    """The split of each row, whole groups at a time, label shares as even as the groups allow.

    Largest groups first, each goes where its labels are most wanting (Sechidis et al., ECML 2011). With
    groups of one row every class reaches every split if it has as many rows as there are splits.
    """
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(int(group), []).append(row)
    shuffled = np.random.default_rng(seed).permutation(len(members))
    bundles = list(members.values())
    totals = Counter(labels)
    target = {name: {label: share * n for label, n in totals.items()} for name, share in fractions.items()}
    open_rows = {name: dict(wanted) for name, wanted in target.items()}
    filled = Counter()
    chosen = [""] * len(labels)
    for bundle in sorted((bundles[index] for index in shuffled), key=len, reverse=True):
        counts = Counter(labels[row] for row in bundle)
        # between splits that want the rows equally, the one which is less full
        scores = {
            name: (*_want(counts, open_rows[name], target[name]), -filled[name] / share)
            for name, share in fractions.items()
        }
        best = max(scores, key=scores.__getitem__)
        filled[best] += len(bundle)
        for label, n in counts.items():
            open_rows[best][label] -= n
        for row in bundle:
            chosen[row] = best
    return chosen


def _want(counts: Counter[str], open_rows: dict[str, float], target: dict[str, float]) -> tuple[int, float]:
    """How much a split wants these rows: the labels it has none of yet, then its unmet share of each label.

    The unmet share is taken halfway through adding the rows; a new label counts only if the rows fit.
    """
    new = sum(open_rows[label] == target[label] and n <= max(1, target[label]) for label, n in counts.items())
    unmet = sum(n * (open_rows[label] - n / 2) / target[label] for label, n in counts.items())
    return new, unmet
