"""The report's contents as text: each function takes results and gives lines of a table or a sentence.

A cell is a string, or a pair of a string and its small print, such as an interval.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

import pandas as pd

from tuneledger.show.tables import ABSENT, count, dollars, duration, interval, large, number

Cell = str | tuple[str, str]

MISTAKES = 20
TEXT = 500  # characters of a text that are shown
NO_PRICE = "no price for this hardware: set cost.usd_per_hour"
SCORES = {
    "accuracy": ("Accuracy", "share of rows predicted right"),
    "f1": ("F1", "harmonic mean of precision and recall"),
    "precision": ("Precision", "share right among rows predicted positive"),
    "recall": ("Recall", "share found among rows that are positive"),
    "loss": ("Loss", "mean cross-entropy in nats"),
    "ece": ("Calibration error", "mean gap between confidence and accuracy, 15 bins"),
    "brier": ("Brier score", "squared error of the probabilities; 0 is best"),
}


def model_name(params: dict[str, Any]) -> str:
    """The part of model.path that people know the model by."""
    path = str(params["model.path"])
    if path.startswith("package://"):
        return path.removeprefix("package://").split("/")[0]
    return _last(path)


def data_name(params: dict[str, Any]) -> str:
    """The folder's name."""
    return _last(str(params["data.path"]))


def verdict(metrics: dict[str, Any]) -> str:
    """One sentence on accuracy against the majority baseline."""
    baseline = metrics["majority_baseline"]
    if metrics["accuracy_low"] > baseline:
        return (
            "The whole interval lies above the majority baseline: the model does better than always giving "
            "the most frequent answer."
        )
    if metrics["accuracy_high"] < baseline:
        return (
            "The whole interval lies below the majority baseline: always giving the most frequent answer does better."
        )
    return (
        f"The interval contains the majority baseline: {metrics['rows']} rows do not show that the model does "
        "better than always giving the most frequent answer."
    )


def cost_headline(price: dict[str, Any]) -> tuple[str, str]:
    if price["usd"] is None:
        return ABSENT, NO_PRICE
    return dollars(price["usd"]), f"at {price_text(price)}"


def price_text(price: dict[str, Any]) -> str:
    if price["usd_per_hour"] is None:
        return NO_PRICE
    day = f", as of {price['price_as_of']}" if price["price_as_of"] else ", undated"
    return f"${price['usd_per_hour']:g} an hour, {price['price_source']}{day}"


def epoch_rows(epochs: pd.DataFrame) -> list[list[Cell]]:
    """Epoch, training loss, validation loss, accuracy with interval, F1."""
    return [
        [
            str(int(line.epoch)),
            number(line.train_loss, 4),
            number(line.val_loss, 4),
            (number(line.accuracy), interval(line.accuracy_low, line.accuracy_high)),
            number(line.f1),
        ]
        for line in epochs.itertuples()
    ]


def score_rows(metrics: dict[str, Any]) -> list[list[Cell]]:
    return [
        [(name, meaning), number(metrics[key]), interval(metrics[f"{key}_low"], metrics[f"{key}_high"])]
        for key, (name, meaning) in SCORES.items()
    ]


def slice_rows(slices: pd.DataFrame) -> list[list[Cell]]:
    """Column, value, rows, accuracy with interval, F1, majority baseline."""
    return [
        [
            line.column,
            str(line.value),
            count(line.rows),
            (number(line.accuracy), interval(line.accuracy_low, line.accuracy_high)),
            number(line.f1),
            number(line.majority_baseline),
        ]
        for line in slices.itertuples()
    ]


def mistakes(predictions: pd.DataFrame) -> list[dict[str, Any]]:
    """The wrong predictions the model was surest of, surest first."""
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    worst = wrong.sort_values("confidence", ascending=False, kind="stable").head(MISTAKES)
    texts = [name for name in ("text_a", "text_b") if name in worst]
    return [
        {
            "source": line["source"],
            "label": line["label"],
            "predicted": line["predicted"],
            "confidence": number(line["confidence"]),
            "texts": [_clipped(line[name]) for name in texts],
        }
        for line in worst.to_dict("records")
    ]


def audit_table(audit: dict[str, Any]) -> tuple[list[str], list[list[Cell]]]:
    """Findings by split: header and lines."""
    splits = audit["splits"]
    shared = audit["shared_sentences"]
    lines: dict[str, list[Cell]] = {
        "Rows": [count(part["rows"]) for part in splits.values()],
        **{
            f"Label {name}": [count(part["label_counts"][name]) for part in splits.values()] for name in audit["labels"]
        },
        "Majority baseline": [
            (number(part["majority_baseline"]), f"label {part['majority_label']}") for part in splits.values()
        ],
        "Words in a text": [
            (f"{part['words']['median']:g}", f"up to {count(part['words']['max'])}") for part in splits.values()
        ],
        "Texts without a word": [count(part["empty_texts"]) for part in splits.values()],
        f"Texts over {audit['over_long_words']} words": [count(part["over_long_texts"]) for part in splits.values()],
        "Repeated rows": [count(part["duplicates"]) for part in splits.values()],
        **{
            f"Rows sharing a text with {earlier}": [
                count(shared[name][earlier]["rows"]) if earlier in shared.get(name, {}) else ABSENT for name in splits
            ]
            for earlier in list(splits)[:-1]
        },
    }
    return ["", *splits], [[name, *cells] for name, cells in lines.items()]


def audit_sentences(audit: dict[str, Any]) -> list[str]:
    """Findings that concern all splits together."""
    repeated, opposed = audit["duplicates_across_splits"], audit["contradictions"]
    sentences = [f"{count(repeated)} examples occur in more than one split." if repeated else
                 "No example occurs in more than one split."]  # fmt: skip
    if audit["left_out"]:
        sentences.append(f"{count(audit['left_out'])} rows that share a text with the given test split were left out.")
    if not opposed["count"]:
        return [*sentences, "No example carries two different labels."]
    first = " and ".join(f"{row['source']} (label {row['label']})" for row in opposed["examples"][0])
    return [*sentences, f"{count(opposed['count'])} examples carry different labels, first {first}."]


def cost_rows(cost: dict[str, Any], evaluate_cost: dict[str, Any], price: dict[str, Any]) -> list[list[Cell]]:
    """What the run took; a figure that was not measured shows as a dash."""
    usd, price_note = cost_headline(price)
    return [
        ["Cost", (usd, price_note)],
        ["Machine", _machine(cost.get("hardware") or {})],
        ["Fit", (duration(cost.get("fit_seconds")), _fit_parts(cost))],
        ["Evaluation", duration(evaluate_cost.get("evaluate_seconds"))],
        ["Training speed", f"{count(cost.get('examples_per_second'))} examples/s"],
        [
            "Tokens per second",
            (
                count(cost.get("tokens_per_second")),
                f"{count(cost.get('padded_tokens_per_second'))} with padding",
            ),
        ],
        [
            "Tokens trained on",
            (count(cost.get("tokens_total")), f"{count(cost.get('padded_tokens_total'))} with padding"),
        ],
        ["Peak memory", f"{number(cost.get('peak_memory_gib'), 2)} GiB"],
        [
            "Parameters",
            (large(cost.get("parameters")), f"{large(cost.get('trainable_parameters'))} trainable"),
        ],
        ["Arithmetic", large(cost.get("flops"), "FLOP")],
    ]


def commands(commit: str | None, overrides: list[str]) -> list[str]:
    """Shell lines that run this again."""
    lines = [f"git checkout {commit}"] if commit else []
    flags = [f"-S {shlex.quote(override)}" for override in overrides]
    return [*lines, " \\\n  ".join(["dvc exp run", *flags]) if flags else "dvc repro"]


def settings(params: dict[str, Any]) -> list[list[Cell]]:
    """Every setting of the run, dotted key and value."""
    return [[key, _setting(value)] for key, value in params.items()]


def _last(path: str) -> str:
    return path.rstrip("/").split("/")[-1]


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _fit_parts(cost: dict[str, Any]) -> str:
    training, validation = duration(cost.get("train_seconds")), duration(cost.get("validation_seconds"))
    parts = f"training {training}, validation {validation}"
    resumed = cost.get("resumed") or 0
    return f"{parts}, resumed {resumed} time{'s' if resumed > 1 else ''}" if resumed else parts


def _machine(hardware: dict[str, Any]) -> Cell:
    gpu, gpus = hardware.get("gpu"), hardware.get("gpus") or 0
    cpu = f"{hardware.get('cpu') or 'unknown processor'}, {hardware.get('cores') or ABSENT} cores"
    memory = f"{number(hardware.get('memory_gib'), 1)} GiB"
    if gpu:
        return (gpu if gpus == 1 else f"{gpus}x {gpu}", f"{cpu}, {memory}")
    return (cpu, f"{memory}, no GPU")


def _clipped(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[:TEXT]}…"
