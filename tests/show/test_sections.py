from __future__ import annotations

import pandas as pd
import pytest

from tuneledger.show import sections

PRICED = {"usd": 0.0524, "usd_per_hour": 1.006, "price_source": "a list", "price_as_of": "2026-06-17"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("package://some_package/model", "some_package"),
        ("google-bert/bert-base-uncased", "bert-base-uncased"),
        ("models/mine/", "mine"),
    ],
)
def test_model_name(path, name):
    assert sections.model_name({"model.path": path}) == name


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.7, 0.8, "lies above"), (0.5, 0.6, "lies below"), (0.6, 0.7, "contains the majority baseline: 40 rows")],
)
def test_verdict(low, high, words):
    metrics = {"accuracy_low": low, "accuracy_high": high, "majority_baseline": 0.64, "rows": 40}
    assert words in sections.verdict(metrics)


def test_price_is_told_with_source_and_date():
    assert sections.cost_headline(PRICED) == ("$0.052", "at $1.006 an hour, a list, as of 2026-06-17")


def test_own_price_is_undated():
    assert sections.price_text(PRICED | {"price_as_of": None}) == "$1.006 an hour, a list, undated"


def test_no_price_says_what_to_do(results):
    assert sections.cost_headline(results.price) == (
        "–",
        "no price for this hardware: set cost.usd_per_hour",
    )


def test_epoch_rows(results):
    assert sections.epoch_rows(results.epochs)[1] == ["2", "0.5000", "0.5500", ("0.761", "0.712–0.803"), "0.680"]


def test_slice_rows_show_an_empty_f1_as_a_dash(results):
    assert sections.slice_rows(results.slices)[1] == [
        "domain",
        "sport",
        "1",
        ("1.000", "0.300–1.000"),
        "–",
        "1.000",
    ]


def test_mistakes_surest_first(results):
    assert [(line["source"], line["confidence"]) for line in sections.mistakes(results.predictions)] == [
        ("test.tsv:3", "0.970"),
        ("test.tsv:5", "0.610"),
    ]


def test_long_texts_are_cut_and_few_mistakes_are_shown():
    wrong = pd.DataFrame(
        {"source": "s", "text_a": "x" * 10_000, "label": "a", "predicted": "b", "confidence": [0.5] * 50}
    )
    lines = sections.mistakes(wrong)
    assert len(lines) == sections.MISTAKES
    assert lines[0]["texts"] == ["x" * sections.TEXT + "…"]


def test_audit_table(results):
    header, lines = sections.audit_table(results.audit)
    assert header == ["", "train", "test"]
    assert ["Label yes", "401", "401"] in lines
    assert ["Texts over 400 words", "2", "2"] in lines
    assert ["Rows sharing a text with train", "–", "11"] in lines


def test_audit_table_compares_all_splits(results):
    splits = dict.fromkeys(("train", "validation", "test"), results.audit["splits"]["train"])
    shared = {"validation": {"train": {"rows": 0}}, "test": {"train": {"rows": 1}, "validation": {"rows": 2}}}
    _, lines = sections.audit_table(results.audit | {"splits": splits, "shared_sentences": shared})
    assert lines[-2:] == [
        ["Rows sharing a text with train", "–", "0", "1"],
        ["Rows sharing a text with validation", "–", "–", "2"],
    ]


def test_audit_sentences():
    examples = [[{"source": "a.tsv:2", "label": "0"}, {"source": "b.tsv:9", "label": "1"}]]
    audit = {"duplicates_across_splits": 5, "left_out": 12, "contradictions": {"count": 1, "examples": examples}}
    assert sections.audit_sentences(audit) == [
        "5 examples occur in more than one split.",
        "12 rows that share a text with the given test split were left out.",
        "1 examples carry different labels, first a.tsv:2 (label 0) and b.tsv:9 (label 1).",
    ]


def test_cost_rows_name_the_gpu_and_the_resumes(results):
    hardware = {"cpu": "A processor", "cores": 8, "memory_gib": 32, "gpu": "NVIDIA A10G", "gpus": 2}
    lines = dict(sections.cost_rows(results.train_cost | {"hardware": hardware, "resumed": 2}, {}, PRICED))
    assert lines["Machine"] == ("2x NVIDIA A10G", "A processor, 8 cores, 32.0 GiB")
    assert lines["Fit"] == ("3 min 04 s", "training 2 min 50 s, validation 14.0 s, resumed 2 times")
    assert lines["Evaluation"] == "–"


def test_commands_quote_for_the_shell():
    assert sections.commands("abc", ["optim.lr=5e-05", "data.path='my data'"]) == [
        "git checkout abc",
        "dvc exp run \\\n  -S optim.lr=5e-05 \\\n  -S 'data.path='\"'\"'my data'\"'\"''",
    ]
    assert sections.commands(None, []) == ["dvc repro"]
