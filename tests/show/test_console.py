from __future__ import annotations

from tuneledger.show.console import HEADER, epoch_header, epoch_row

ROW = {
    "epoch": 3,
    "step": 246,
    "train_loss": 0.41234,
    "val_loss": 0.39876,
    "accuracy": 0.84588,
    "accuracy_low": 0.79871,
    "accuracy_high": 0.88357,
    "f1": 0.88888,
}


def test_the_header_gives_the_score_of_knowing_nothing():
    baseline, header = epoch_header(1725, "no", 0.6416).split("\n")
    assert baseline == "validation: 1,725 rows; always answering 'no' scores accuracy 0.642"
    assert header == HEADER


def test_a_row():
    assert epoch_row(ROW) == "    3         0.4123           0.3988     0.846  [0.799, 0.884]       0.889"


def test_figures_stand_under_their_heads():
    row = epoch_row(ROW)
    assert len(row) == len(HEADER)
    for head, figure in (
        ("Epoch", "3"),
        ("Training Loss", "0.4123"),
        ("Validation Loss", "0.3988"),
        ("Accuracy", "0.846"),
    ):
        assert HEADER.index(head) + len(head) == row.index(figure) + len(figure)
    assert HEADER.index("[95 %") == row.index("[")
    assert row.endswith("0.889") and HEADER.endswith("F1")
