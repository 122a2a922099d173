"""A small made-up run, as the report gets it."""

from __future__ import annotations

import pandas as pd
import pytest

from tuneledger.show.results import Results


@pytest.fixture
def results() -> Results:
    scores = ("loss", "accuracy", "f1", "precision", "recall", "ece", "brier")
    metrics = {f"{name}{end}": v for name in scores for end, v in (("", 0.75), ("_low", 0.7), ("_high", 0.8))}
    split = {
        "rows": 1301,
        "label_counts": {"no": 900, "yes": 401},
        "majority_label": "no",
        "majority_baseline": 0.692,
        "words": {"median": 15.5, "p95": 20.0, "max": 30},
        "empty_texts": 0,
        "over_long_texts": 2,
        "duplicates": 3,
    }
    return Results(
        params={
            "seed": 7,
            "model.path": "google-bert/bert-base-uncased",
            "data.path": "data/raw/twins",
            "optim.lr": 5e-5,
        },
        audit={
            "labels": ["no", "yes"],
            "over_long_words": 400,
            "splits": {"train": split, "test": split},
            "duplicates_across_splits": 0,
            "contradictions": {"count": 0, "examples": []},
            "left_out": 0,
            "shared_sentences": {"test": {"train": {"rows": 11, "sentences": 12}}},
        },
        epochs=pd.DataFrame(
            {
                "epoch": [1, 2],
                "step": [10, 20],
                "train_loss": [0.61234, 0.5],
                "val_loss": [0.6, 0.55],
                "accuracy": [0.7, 0.761],
                "accuracy_low": [0.6, 0.712],
                "accuracy_high": [0.8, 0.803],
                "f1": [0.6, 0.68],
            }
        ),
        steps=pd.DataFrame({"step": range(1, 21), "loss": [0.7 - 0.01 * step for step in range(20)]}),
        train={
            "best_epoch": 2,
            "epochs": 2,
            "steps": 20,
            "majority_baseline": 0.64,
            "selected_by": "val_loss (min)",
        },
        train_cost={
            "hardware": {"cpu": "A processor", "cores": 2, "memory_gib": 23.4, "gpu": None, "gpus": 0},
            "fit_seconds": 184.2,
            "train_seconds": 170.0,
            "validation_seconds": 14.0,
            "examples_per_second": 30.2,
            "tokens_per_second": 1400.0,
            "padded_tokens_per_second": 1500.0,
            "tokens_total": 243480,
            "padded_tokens_total": 260000,
            "peak_memory_gib": 1.84,
            "parameters": 22713986,
            "trainable_parameters": 22713986,
            "flops": 2.08e13,
            "resumed": 0,
        },
        metrics={"split": "test", "rows": 4, "majority_baseline": 0.642, **metrics},
        evaluate_cost={"evaluate_seconds": 3.2},
        slices=pd.DataFrame(
            {
                "column": ["domain", "domain", "kind"],
                "value": ["life", "sport", "a$b$"],
                "rows": [3, 1, 4],
                "accuracy": [0.667, 1.0, 0.75],
                "accuracy_low": [0.2, 0.3, 0.3],
                "accuracy_high": [0.9, 1.0, 0.95],
                "f1": [0.5, float("nan"), 0.6],
                "majority_baseline": [0.667, 1.0, 0.5],
            }
        ),
        confusion=pd.DataFrame({"actual": ["no", "no", "yes", "yes"], "predicted": ["no", "yes", "yes", "no"]}),
        calibration=pd.DataFrame(
            {
                "bin_low": [0.6, 0.8],
                "bin_high": [0.8, 1.0],
                "rows": [2, 2],
                "confidence": [0.7, 0.9],
                "accuracy": [0.5, 0.5],
            }
        ),
        predictions=pd.DataFrame(
            {
                "source": [f"test.tsv:{line}" for line in range(2, 6)],
                "text_a": ["right", "<script>alert(1)</script> see https://example.org", "right", "less sure"],
                "text_b": ["b1", "b2", "b3", "b4"],
                "label": ["no", "no", "yes", "yes"],
                "predicted": ["no", "yes", "yes", "no"],
                "confidence": [0.9, 0.97, 0.8, 0.61],
                "logit_no": [1.0, -2.0, -1.0, 1.0],
                "logit_yes": [-1.0, 2.0, 1.0, -1.0],
            }
        ),
        price={"usd": None, "usd_per_hour": None, "price_source": None, "price_as_of": None},
        commit="0123456789abcdef",
        dirty=True,
        overrides=["optim.lr=5e-05", "data.path='my data'"],
        run_id="feedbeef",
    )
