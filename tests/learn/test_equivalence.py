"""The same mathematics as transformers.Trainer: fp32, no dropout, the same batches, 50 steps; losses and weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import scratch
import torch

from tuneledger.learn.packed.bert import packable

STEPS = 50
BATCH = 8
MINILM = {**scratch.TINY_MODEL, "architecture": None, "dropout": 0.0}
OPTIM = {**scratch.OPTIM, "lr": 5e-5, "weight_decay": 0.0, "warmup": 0.0}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scratch.tokenized(tmp_path_factory.mktemp("equivalence"), train=STEPS * BATCH, validation=16)


def our_training(tokens: Path, folder: Path) -> tuple[list[float], torch.nn.Module]:
    from tuneledger.learn.fit import fit

    loader = {"batch_size": BATCH, "group_by_length": False}
    module, batches = scratch.make_training(tokens, model=MINILM, optim=OPTIM, loader=loader)
    settings = {**scratch.TRAINER, "max_epochs": 1, "checkpoint_every_n_steps": 1000}
    result = fit(module, batches, folder, 1, scratch.nothing, scratch.nothing, **settings)
    return [row["loss"] for row in result.steps], module.model


@pytest.fixture(scope="module")
def reference(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The reference: transformers' own loop, optimizer and schedule, fed our batches in our order."""
    from transformers import Trainer, TrainingArguments

    module, batches = scratch.make_training(tokens, model=MINILM, optim=OPTIM, loader={"batch_size": BATCH})
    order = training_order(batches)

    class Ordered(Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(order)

    arguments = TrainingArguments(
        output_dir=str(tmp_path_factory.mktemp("reference")),
        per_device_train_batch_size=BATCH,
        learning_rate=OPTIM["lr"],
        num_train_epochs=1,
        max_grad_norm=1.0,
        weight_decay=0.0,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = Ordered(model=module.model, args=arguments, train_dataset=order, data_collator=batches.collate)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, module.model.state_dict()


def training_order(batches) -> list[dict]:
    """The examples of the first epoch, in the order in which we train on them."""
    from tuneledger.text.batches import training_batches

    rows = training_batches(batches.train.lengths, BATCH, group_by_length=False, seed=1, epoch=0)
    return [batches.train[int(row)] for batch in rows for row in batch]


def test_fifty_steps_equal_transformers_trainer(tokens: Path, tmp_path: Path, reference, implementation: str):
    ours, model = our_training(tokens, tmp_path / "ours")
    assert packable(model)
    theirs, wanted = reference
    assert len(ours) == len(theirs) == STEPS
    largest = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    assert largest < 1e-4
    assert max(ours) - min(ours) > 0.05  # the losses moved: equal constants would prove nothing
    start = scratch.make_training(tokens, model=MINILM)[0].model.state_dict()
    assert list(model.state_dict()) == list(wanted)
    error, moved = 0.0, 0.0
    for name, weight in model.state_dict().items():
        # A key's bias changes no attention weight: its gradient is rounding alone, which Adam makes steps of.
        if not name.endswith("key.bias"):
            assert (weight - wanted[name]).norm() < 1e-3 * wanted[name].norm() + 1e-6, name
        error += float((weight - wanted[name]).double().square().sum())
        moved += float((wanted[name] - start[name]).double().square().sum())
    assert moved > 0 and (error / moved) ** 0.5 < 1e-3
