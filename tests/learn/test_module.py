from __future__ import annotations

import copy
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import scratch
import torch
from sklearn.metrics import f1_score
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from tuneledger.learn.module import Classifier


class Table(torch.nn.Module):
    """A model whose logits are looked up: row i of `logits` for the example whose only token is i."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)
        self.config = SimpleNamespace(num_labels=logits.shape[1])

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        assert attention_mask.all()
        return SimpleNamespace(logits=self.logits[input_ids[:, 0]])


def batches_of(labels: torch.Tensor, sizes: list[int]) -> list[dict[str, torch.Tensor]]:
    rows = torch.arange(len(labels)).split(sizes)
    return [
        {"input_ids": part[:, None], "attention_mask": torch.ones_like(part[:, None]), "labels": labels[part]}
        for part in rows
    ]


@pytest.mark.parametrize("classes", [2, 4])
def test_figures_over_uneven_batches_are_those_of_the_whole_split(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = 2 * torch.randn(23, classes, generator=generator)
    labels = torch.randint(classes, (23,), generator=generator)
    module = Classifier(Table(logits), scratch.OPTIM, scratch.LOSS)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = batches_of(labels, [16, 5, 1, 1])
    for _ in range(2):  # the second pass starts from nothing
        [found] = trainer.validate(module, DataLoader(batches, batch_size=None), verbose=False)
        predicted = logits.argmax(dim=1)
        f1 = f1_score(labels, predicted) if classes == 2 else f1_score(labels, predicted, average="macro")
        assert set(found) == {"val_loss", "accuracy", "f1"}
        assert found["accuracy"] == pytest.approx(float((predicted == labels).float().mean()), abs=1e-6)
        assert found["f1"] == pytest.approx(f1, abs=1e-6)
        assert found["val_loss"] == pytest.approx(float(cross_entropy(logits, labels)), abs=1e-6)


def test_training_loss_is_the_mean_over_the_batch_and_reaches_every_weight(few):
    module, batches = scratch.make_training(few, model={"dropout": 0.0})
    batch = batches.collate([batches.train[row] for row in range(6)])
    loss = module.training_step(batch, 0)
    each = [module.training_step(batches.collate([batches.train[row]]), 0).item() for row in range(6)]
    assert loss.item() == pytest.approx(np.mean(each), abs=1e-5)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_one_batch_is_learnt_by_heart(few):
    module, batches = scratch.make_training(few, model={"dropout": 0.0})
    batch = batches.collate([batches.train[row] for row in range(8)])
    assert 0 < batch["labels"].sum() < 8
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(60):
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02


def test_dropout_is_on_in_training_also_after_a_validation_and_off_in_validation(train):
    modes = []

    def watch(module: Classifier) -> None:
        module.model.dropout.register_forward_hook(
            lambda dropout, *_: modes.append((dropout.training, torch.is_grad_enabled(), module.model.training))
        )

    train(prepare=watch, max_epochs=2)
    epoch = [(True, True, True)] * 6 + [(False, False, False)] * 2
    assert modes == 2 * epoch


def test_the_schedule_spans_exactly_the_optimizer_steps(train):
    changes = {"optim": {"lr": 1.0e-3, "warmup": 0, "schedule": "linear"}, "loader": {"batch_size": 10}}
    result = train(max_epochs=2, accumulate_grad_batches=2, changes=changes)
    # 5 batches an epoch make 3 optimizer steps, the last of a single batch.
    assert [row["lr"] for row in result.steps] == pytest.approx([1e-3 * (1 - step / 6) for step in range(6)])


def test_compiled_training_computes_the_same(few):
    """With batches of several shapes, and the model that is saved is none the wiser."""
    plain, batches = scratch.make_training(few, model={"dropout": 0.0}, loss={"r_drop": 1.0})
    compiled = copy.deepcopy(plain)
    compiled.compile_training(backend="aot_eager")
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for rows in (range(8), range(8, 13), range(13, 21)):
        batch = batches.collate([batches.train[row] for row in rows])
        losses = [module.training_step(batch, 0) for module in (plain, compiled)]
        assert losses[1].item() == pytest.approx(losses[0].item(), abs=1e-6)
        for module, loss in zip((plain, compiled), losses, strict=True):
            module.zero_grad()
            loss.backward()
        for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)
    assert not torch._dynamo.utils.counters["graph_break"]
