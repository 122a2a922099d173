"""What a reader of the scores must know of the data: sizes, balance, duplicates, contradictions, leaks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tuneledger.data.on_disk import pieces
from tuneledger.data.table import sentence_ids, text_slots

# 400 words are about 512 word pieces, where BERT-like encoders end; `tokenize` counts what is really cut.
OVER_LONG_WORDS = 400
EXAMPLES = 5


def audit(splits: dict[str, pd.DataFrame], labels: list[str], sources: list[dict[str, Any]]) -> dict[str, Any]:
    """The audit as plain JSON values.

    Args:
        splits: prepared tables, label as index into `labels`.
        labels: class names.
        sources: where the rows came from, taken over as they are.

    Texts are compared without regard to case and white space, pairs in either order. `duplicates` counts
    rows that repeat an earlier row of their split, `duplicates_across_splits` the pairs (or texts) found in
    more than one split, `shared_sentences` for each split and each one before it the rows of the later that hold
    a sentence of the earlier, `empty_texts` those without a letter or digit, since blank ones never get this far.
    """
    tables = list(splits.values())
    sentence = sentence_ids(pd.concat(tables, ignore_index=True))
    rows = pd.DataFrame(
        {
            "pair": _pair_ids(sentence),
            "label": np.concatenate([table["label"] for table in tables]),
            "split": np.repeat(np.arange(len(tables)), [len(table) for table in tables]),
        }
    )
    of = {name: (rows["split"] == place).to_numpy() for place, name in enumerate(splits)}
    return {
        "labels": labels,
        "over_long_words": OVER_LONG_WORDS,
        "splits": {name: _split(table, rows["pair"][of[name]], labels) for name, table in splits.items()},
        "duplicates_across_splits": len(_with_several(rows, "split")),
        "contradictions": _contradictions(rows, tables, labels),
        "shared_sentences": _shared({name: sentence[mine] for name, mine in of.items()}),
        "sources": sources,
    }


def summary(result: dict[str, Any]) -> list[str]:
    """The audit in a few lines for the terminal, warnings last.

    Args:
        result: the content of audit.json, see `stages.prepare.prepare`.
    """
    lines = []
    for name, part in result["splits"].items():
        share = f"{part['majority_baseline']:.1%} are {part['majority_label']!r} (the majority baseline)"
        lines.append(f"{name:<11}{part['rows']:>8,} rows, {share}, {part['words']['median']:g} words a text")
        if part["over_long_texts"]:
            limit = result["over_long_words"]
            lines.append(f"warning: {part['over_long_texts']:,} texts of {name} have more than {limit} words")
    if result["left_out"]:
        why = "left out of train and validation: they share a sentence with the given test split"
        lines.append(
            f"warning: {result['left_out']:,} rows {why}; data.test_fraction above 0 draws test anew and keeps them"
        )
    for name, others in result["shared_sentences"].items():
        for other, shared in others.items():
            if shared["rows"]:
                of = f"{shared['rows']:,} of {result['splits'][name]['rows']:,} {name} rows"
                lines.append(f"warning: {of} share a sentence with {other}; data.split=grouped makes none shared")
    opposed = result["contradictions"]
    if opposed["count"]:
        first = " and ".join(f"{row['source']} ({row['label']})" for row in opposed["examples"][0][:2])
        lines.append(f"warning: {opposed['count']:,} repeated rows contradict each other in the label, first {first}")
    return lines


def _pair_ids(sentence: np.ndarray) -> np.ndarray:
    """[rows, 1 or 2] sentence numbers to [rows] numbers, equal for (a, b) and (b, a)."""
    return sentence.min(axis=1) * (int(sentence.max()) + 1) + sentence.max(axis=1)


def _with_several(rows: pd.DataFrame, column: str) -> np.ndarray:
    """The pairs whose rows differ in `column`, in the order in which they appear."""
    different = rows[["pair", column]].drop_duplicates()
    several = different["pair"][different["pair"].duplicated()]
    return rows["pair"][rows["pair"].isin(several)].unique()


def _split(table: pd.DataFrame, pair: pd.Series, labels: list[str]) -> dict[str, Any]:
    counts = np.bincount(table["label"], minlength=len(labels))
    measures = [_measure(part) for slot in text_slots(table) for part in pieces(table[slot])]
    characters, words, empty = map(np.concatenate, zip(*measures, strict=True))
    return {
        "rows": len(table),
        "label_counts": dict(zip(labels, counts.tolist(), strict=True)),
        "majority_label": labels[int(counts.argmax())],
        "majority_baseline": float(counts.max() / len(table)),
        "empty_texts": int(empty.sum()),
        "over_long_texts": int((words > OVER_LONG_WORDS).sum()),
        "characters": _spread(characters),
        "words": _spread(words),
        "duplicates": int(pair.duplicated().sum()),
    }


def _measure(texts: pd.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each text its characters, its words, and whether it has no letter or digit."""
    words = [len(text.split()) for text in texts]
    empty = ~texts.str.contains(r"[^\W_]", regex=True)
    return texts.str.len().to_numpy(np.int32), np.array(words, np.int32), empty.to_numpy(bool)


def _spread(lengths: np.ndarray) -> dict[str, float]:
    return {
        "median": float(np.median(lengths)),
        "p95": float(np.quantile(lengths, 0.95)),
        "max": int(lengths.max()),
    }


def _contradictions(rows: pd.DataFrame, tables: list[pd.DataFrame], labels: list[str]) -> dict[str, Any]:
    """Pairs (or texts) that carry more than one label, over all splits, with the rows of the first few."""
    opposed = _with_several(rows, "label")
    starts = np.cumsum([0, *(len(table) for table in tables)])
    examples = []
    for pair in opposed[:EXAMPLES]:
        same = rows[rows["pair"] == pair].drop_duplicates("label")
        examples.append(
            [
                {"source": tables[split]["source"].iloc[row - starts[split]], "label": labels[label]}
                for row, split, label in zip(same.index, same["split"], same["label"], strict=True)
            ]
        )
    return {"count": len(opposed), "examples": examples}


def _shared(sentence: dict[str, np.ndarray]) -> dict[str, dict[str, dict[str, int]]]:
    """`shared_sentences` from each split's sentence numbers, with the count of different sentences."""
    names = list(sentence)
    return {
        later: {earlier: _overlap(sentence[later], sentence[earlier]) for earlier in names[:place]}
        for place, later in enumerate(names)
        if place
    }


def _overlap(part: np.ndarray, other: np.ndarray) -> dict[str, int]:
    """The rows of `part` that hold a sentence of `other`, and the different sentences concerned."""
    hits = np.isin(part, other)
    return {"rows": int(hits.any(axis=1).sum()), "sentences": len(np.unique(part[hits]))}
