"""What a reader of the scores must know of the data: sizes, balance, duplicates, contradictions, leaks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tuneledger.data.table import sentence_ids, text_slots

# 400 words are about 512 word pieces, where BERT-like encoders end; `tokenize` counts what is really cut.
OVER_LONG_WORDS = 400
EXAMPLES = 5


def audit(splits: dict[str, pd.DataFrame], labels: list[str], sources: list[dict[str, Any]]) -> dict[str, Any]:
    """The audit as plain JSON values.

    Args:
        splits: prepared tables, label as index into `labels`; "train" is one of them.
        labels: class names.
        sources: where the rows came from, taken over as they are.

    Texts are compared without regard to case and white space, pairs in either order. `duplicates` counts
    rows that repeat an earlier row of their split, `duplicates_across_splits` the pairs (or texts) found in
    more than one split, `empty_texts` those without a letter or digit, since blank ones never get this far.
    """
    rows = pd.concat(splits, names=["split"]).reset_index("split").reset_index(drop=True)
    slots = text_slots(rows)
    sentence = sentence_ids(rows)
    rows["pair"] = _pair_ids(sentence)
    return {
        "labels": labels,
        "over_long_words": OVER_LONG_WORDS,
        "splits": {name: _split(rows[rows["split"] == name], slots, labels) for name in splits},
        "duplicates_across_splits": int((rows.groupby("pair")["split"].nunique() > 1).sum()),
        "contradictions": _contradictions(rows, labels),
        "shared_with_train": _shared(rows["split"], sentence),
        "sources": sources,
    }


def summary(result: dict[str, Any]) -> list[str]:
    """The audit in a few lines for the terminal, warnings last.

    Args:
        result: the content of audit.json: what `audit` gave, and data.split as "split".
    """
    lines = []
    for name, part in result["splits"].items():
        share = f"{part['majority_baseline']:.1%} are {part['majority_label']!r} (the majority baseline)"
        lines.append(f"{name:<11}{part['rows']:>8,} rows, {share}, {part['words']['median']:g} words a text")
        if part["over_long_texts"]:
            limit = result["over_long_words"]
            lines.append(f"warning: {part['over_long_texts']:,} texts of {name} have more than {limit} words")
    advice = "data.split=grouped makes none shared"
    if result["split"] == "grouped":
        advice = "data.test_fraction above 0 draws test anew, too"
    for name, shared in result["shared_with_train"].items():
        if shared["rows"]:
            of = f"{shared['rows']:,} of {result['splits'][name]['rows']:,} {name} rows"
            lines.append(f"warning: {of} share a sentence with train; {advice}")
    opposed = result["contradictions"]
    if opposed["count"]:
        first = " and ".join(f"{row['source']} ({row['label']})" for row in opposed["examples"][0][:2])
        lines.append(f"warning: {opposed['count']:,} repeated rows contradict each other in the label, first {first}")
    return lines


def _pair_ids(sentence: np.ndarray) -> np.ndarray:
    """[rows, 1 or 2] sentence numbers to [rows] numbers, equal for (a, b) and (b, a)."""
    return sentence.min(axis=1) * (int(sentence.max()) + 1) + sentence.max(axis=1)


def _split(rows: pd.DataFrame, slots: list[str], labels: list[str]) -> dict[str, Any]:
    counts = np.bincount(rows["label"], minlength=len(labels))
    texts = pd.concat([rows[name] for name in slots])
    words = texts.str.split().str.len()
    return {
        "rows": len(rows),
        "label_counts": dict(zip(labels, counts.tolist(), strict=True)),
        "majority_label": labels[int(counts.argmax())],
        "majority_baseline": float(counts.max() / len(rows)),
        "empty_texts": int((~texts.str.contains(r"[^\W_]", regex=True)).sum()),
        "over_long_texts": int((words > OVER_LONG_WORDS).sum()),
        "characters": _spread(texts.str.len()),
        "words": _spread(words),
        "duplicates": int(rows["pair"].duplicated().sum()),
    }


def _spread(lengths: pd.Series) -> dict[str, float]:
    return {
        "median": float(lengths.median()),
        "p95": float(lengths.quantile(0.95)),
        "max": int(lengths.max()),
    }


def _contradictions(rows: pd.DataFrame, labels: list[str]) -> dict[str, Any]:
    """Pairs (or texts) that carry more than one label, over all splits, with the rows of the first few."""
    opposed = rows[rows.groupby("pair")["label"].transform("nunique") > 1]
    examples = []
    for pair in opposed["pair"].unique()[:EXAMPLES]:
        same = opposed[opposed["pair"] == pair].drop_duplicates("label")
        examples.append([{"source": s, "label": labels[n]} for s, n in zip(same["source"], same["label"], strict=True)])
    return {"count": int(opposed["pair"].nunique()), "examples": examples}


def _shared(split: pd.Series, sentence: np.ndarray) -> dict[str, dict[str, int]]:
    """For each other split: its rows that hold a sentence of train, and the different sentences concerned."""
    known = np.unique(sentence[(split == "train").to_numpy()])
    result = {}
    for name in [name for name in split.unique() if name != "train"]:
        part = sentence[(split == name).to_numpy()]
        hits = np.isin(part, known)
        result[name] = {"rows": int(hits.any(axis=1).sum()), "sentences": len(np.unique(part[hits]))}
    return result
