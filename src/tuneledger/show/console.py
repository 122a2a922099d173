"""What a training prints: the lecture's table, a row as each epoch ends."""

from __future__ import annotations

HEADER = "Epoch  Training Loss  Validation Loss  Accuracy  [95 % interval]         F1"


def epoch_header(rows: int, majority_label: str, majority_share: float) -> str:
    """The line that gives scores their meaning, and the table's head.

    Args:
        rows: validation examples.
        majority_label, majority_share: the most frequent label there and its share, which is the accuracy of
            always answering it.
    """
    baseline = f"validation: {rows:,} rows; always answering {majority_label!r} scores accuracy {majority_share:.3f}"
    return f"{baseline}\n{HEADER}"


def epoch_row(row: dict[str, float]) -> str:
    """One epoch as a line under HEADER."""
    interval = f"[{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}]"
    return (
        f"{row['epoch']:>5}  {row['train_loss']:>13.4f}  {row['val_loss']:>15.4f}  {row['accuracy']:>8.3f}  "
        f"{interval:<16}  {row['f1']:>8.3f}"
    )
