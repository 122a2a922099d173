"""What is compared: each way to train, and the settings of ours."""

from __future__ import annotations

from typing import NamedTuple

EPOCHS, BATCH_SIZE = 3, 8
ON_CPU = "trainer.accelerator=cpu"
BF16 = "trainer.precision=bf16-mixed"
LECTURE = ("experiment=deck", "model=minilm", "loader.padding=longest", ON_CPU)
SAME, OWN = "the same", "its own"
PAIRS = ("experiment=pairs", "data=mrpc", ON_CPU, BF16)


class Contestant(NamedTuple):
    """One way to train.

    Attributes:
        script: makes a run.
        batches: "the same" for all of a seed, those of the order file, or "its own".
        what: in words.
        settings: of our training.
        open: trains by another recipe than the lecture's, from another head.
    """

    script: str
    batches: str
    what: str
    settings: tuple[str, ...] = ()
    open: bool = False


CONTESTANTS = {
    "as_written": Contestant("peer.py", SAME, "transformers.Trainer as the lecture has it: fp32, padded to 128"),
    "tuned": Contestant("peer.py", OWN, "transformers.Trainer with the flags that help: bf16, grouped by length"),
    "ours": Contestant("ours.py", SAME, "tuneledger in bf16", (*LECTURE, BF16)),
    "ours_fp32": Contestant("ours.py", SAME, "tuneledger in fp32", LECTURE),
    "open": Contestant(
        "ours.py",
        OWN,
        "tuneledger in bf16 by another recipe, experiment=pairs: batches of 16, two layers frozen, its own head",
        PAIRS,
        open=True,
    ),
}
# Same training, another implementation; and any training from the same checkpoint on the same rows.
DIVISIONS = {
    "closed": [name for name, contestant in CONTESTANTS.items() if not contestant.open],
    "open": ["as_written", "open"],
}
