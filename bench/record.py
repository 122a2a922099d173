"""What every run notes of itself in the same way, whoever trains."""

from __future__ import annotations

import argparse
import hashlib
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from contestants import CONTESTANTS

from tuneledger.errors import Interrupted
from tuneledger.paths import write_json


class Stopwatch:
    """Notes when each step ended, what was trained on and how it scored; with `steps` it stops a training after those.

    `weights_sha256` is for its owner to set.
    """

    def __init__(self, steps: int | None):
        self.steps = steps
        self.weights_sha256: str | None = None
        self._begin = 0.0
        self._began = 0
        self._ends: list[float] = []
        self._labels: list[Any] = []
        self._epochs: list[dict[str, float]] = []

    def begin(self) -> None:
        self._begin, self._began = time.perf_counter(), time.time_ns()

    def batch(self, labels: Any) -> None:
        self._labels.append(labels)

    def step(self) -> None:
        self._ends.append(time.perf_counter() - self._begin)
        if len(self._ends) == self.steps:
            raise Interrupted(signal.SIGTERM)

    def evaluation(self, *, loss: float, accuracy: float, f1: float) -> None:
        seconds = time.perf_counter() - self._begin
        # Rounded, since equal scores must compare as equal: one side computes them in single precision.
        scores = {"loss": round(loss, 6), "accuracy": round(accuracy, 6), "f1": round(f1, 6)}
        self._epochs.append({**scores, "seconds": seconds})

    def write(self, folder: Path) -> None:
        """Write record.json: times in seconds since the training began, at `began`, nanoseconds since 1970."""
        record = {"weights_sha256": self.weights_sha256, "labels_sha256": labels_digest(self._labels)}
        times = {"began": self._began, "epochs": self._epochs, "step_ends": self._ends}
        write_json(folder / "record.json", record | times)


def labels_digest(batches: Iterable[Any]) -> str:
    """SHA-256 of all batches' labels in their order, which of thousands of rows is as good as one of the rows."""
    return hashlib.sha256(b"|".join(np.asarray(labels, dtype=np.int8).tobytes() for labels in batches)).hexdigest()


def weights_digest(model: Any) -> str:
    """SHA-256 of a torch model's named weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def arguments() -> argparse.Namespace:
    """Of a script that makes one run, started in the root of the project or of a copy of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--contestant", required=True, choices=CONTESTANTS)
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--folder", required=True, type=Path, help="where the run writes")
    parser.add_argument("--order", required=True, type=Path, help="JSON: the rows of each epoch in their order")
    parser.add_argument("--steps", type=int, help="stop after so many")
    return parser.parse_args()
