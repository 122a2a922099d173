"""One run of our own training, `python -m tuneledger.stages.train` as a user types it, under a stopwatch.

Writes what the training writes, and record.json, into --folder.
"""

from __future__ import annotations

import sys
from typing import Any

from contestants import CONTESTANTS
from record import Stopwatch, arguments, weights_digest

from tuneledger.stages import train


def attach(watch: Stopwatch, module: Any) -> None:
    """Have Lightning call the stopwatch, by its own hook for callbacks that come with a module."""
    import lightning.pytorch as pl  # not before the training does, which starts MLflow's process first

    class Watch(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            watch.begin()

        def on_train_batch_start(self, trainer: Any, module: Any, batch: dict[str, Any], batch_idx: int) -> None:
            watch.batch(batch["labels"])

        def on_train_batch_end(self, *_: Any) -> None:
            watch.step()

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            names = {"loss": "val_loss", "accuracy": "accuracy", "f1": "f1"}
            watch.evaluation(**{name: float(trainer.callback_metrics[key]) for name, key in names.items()})

    module.configure_callbacks = lambda: [Watch()]


def main() -> None:
    run = arguments()
    watch, build = Stopwatch(run.steps), train.build

    def watched_build(*settings: Any) -> tuple[Any, Any]:
        module, batches = build(*settings)
        watch.weights_sha256 = weights_digest(module.model)
        attach(watch, module)
        return module, batches

    train.build = watched_build
    settings = [*CONTESTANTS[run.contestant].settings, f"seed={run.seed}", f"hydra.run.dir={run.folder}"]
    sys.argv = ["train", *settings]
    try:
        train.main()
    finally:
        watch.write(run.folder)


if __name__ == "__main__":
    main()
