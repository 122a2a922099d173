"""The Lightning module: one step for training and validation, metrics accumulated over whole epochs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.distributed import all_gather
from torch.nn.functional import cross_entropy
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryF1Score, MulticlassAccuracy, MulticlassF1Score
from transformers import PreTrainedModel

from tuneledger.learn.loss import passes, summed_loss
from tuneledger.learn.optimizer import clip_gradients, make_optimizer, takes_any_gradient
from tuneledger.learn.packed.bert import classify
from tuneledger.learn.packed.vocabulary import whole_state


class Classifier(pl.LightningModule):
    """Fine-tunes a sequence classifier; logs val_loss, accuracy and f1 after each epoch.

    F1 is that of label 1 where there are two labels, the macro average where there are more.

    Args:
        model: gives logits (rows, labels) from input_ids, attention_mask and maybe token_type_ids.
        optim: keyword arguments of `make_optimizer`.
        loss: those of `summed_loss`.
    """

    def __init__(self, model: PreTrainedModel, optim: dict[str, Any], loss: dict[str, float]):
        super().__init__()
        self.model = model
        self.optim = optim
        self.loss = loss
        labels = model.config.num_labels
        alike = {"sync_on_compute": False}  # every process scores all rows
        f1 = BinaryF1Score(**alike) if labels == 2 else MulticlassF1Score(labels, average="macro", **alike)
        self.scores = MetricCollection({"accuracy": MulticlassAccuracy(labels, average="micro", **alike), "f1": f1})
        self.processes = 1
        self._compiled: Callable[..., torch.Tensor] | None = None

    def compile_training(self, **options: Any) -> None:
        """Let torch.compile make training's forward pass, and with it its backward pass; `options` go to it.

        Validation stays as it is: what looks into the model from outside would not be called.
        """
        model = self.model
        self._compiled = torch.compile(lambda **inputs: model(**inputs).logits, dynamic=True, **options)

    def setup(self, stage: str) -> None:
        self.processes = self.trainer.world_size

    def _logits(self, batch: dict[str, Any], passes: int = 1) -> torch.Tensor:
        inputs = {name: tensor for name, tensor in batch.items() if name not in ("labels", "rows")}
        if passes > 1:
            inputs = {name: torch.cat([tensor] * passes) for name, tensor in inputs.items()}
        if self._compiled and self.training:
            return self._compiled(**inputs).float()
        return classify(self.model, inputs).float()

    def save(self, folder: Path) -> None:
        """Write the model as a plain Hugging Face folder, whatever was done to it for speed."""
        self.model.save_pretrained(folder, state_dict=whole_state(self.model))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """The loss, of which the mean over processes is that of all the batch's examples."""
        logits = self._logits(batch, passes(self.loss["r_drop"]) if self.training else 1)
        total = summed_loss(logits, batch["labels"], **self.loss)
        rows = batch.get("rows", batch["labels"])  # a batch that did not come from a loader is whole
        return total / (len(rows) / self.processes)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """Accumulate the scores; gives the logits, (rows, labels), of all processes."""
        logits, labels = self.whole(self._logits(batch), batch), self.whole(batch["labels"], batch)
        self.scores.update(logits.argmax(dim=-1), labels)
        loss = cross_entropy(logits, labels)
        self.log("val_loss", loss, on_epoch=True, batch_size=len(logits), sync_dist=True)
        self.log_dict(self.scores, on_epoch=True, batch_size=len(logits))
        return logits

    def whole(self, values: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
        """(rows of this process, ...) as (rows of the batch, ...): what `text.batches.share` parted, put together."""
        if self.processes == 1:
            return values
        shares = [torch.empty_like(values) for _ in range(self.processes)]
        all_gather(shares, values.contiguous())
        return torch.stack(shares, dim=1).flatten(0, 1)[: len(batch["rows"])]

    def configure_optimizers(self) -> dict[str, Any]:
        # Not trainer.estimated_stepping_batches: it sets up the training loader before a checkpoint's loop state is
        # restored, and a resumed run would then begin its epoch anew.
        batches = len(self.trainer.datamodule.epoch_batches)
        steps = -(-batches // self.trainer.accumulate_grad_batches) * self.trainer.max_epochs
        # In 16-mixed gradients are scaled until the step, where a fused optimizer would unscale them: after clipping.
        fused = self.trainer.precision != "16-mixed"
        optimizer, schedule = make_optimizer(
            self.model, steps, fused=fused, any_gradient=takes_any_gradient(self.trainer, self.model), **self.optim
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip to a norm. Lightning's own method refuses every fused optimizer under mixed precision, also bf16."""
        if gradient_clip_val is not None:
            clip_gradients(optimizer, gradient_clip_val)
