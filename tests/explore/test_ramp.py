from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scratch
import torch

from tuneledger.errors import Interrupted, UserError
from tuneledger.explore.ramp import JUDGING, RampRecord, Rise, judging, ramp

SETTINGS = {"min_lr": 1e-5, "max_lr": 1e-1, "steps": 20}


def run(tokens: Path, seed: int = 1, changes: dict[str, Any] | None = None, **settings: Any) -> RampRecord:
    """A ramp of the tiny model; keywords replace its settings or, where they are none of its own, the trainer's."""
    module, batches = scratch.make_training(tokens, seed, **(changes or {}))
    own = {name: settings.pop(name) for name in SETTINGS if name in settings}
    return ramp(module, batches, seed, {**scratch.TRAINER, **settings}, **{**SETTINGS, **own})


@pytest.fixture(scope="module", autouse=True)
def one_thread_from_the_start():
    """On whose number the last bits depend."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def record(few) -> RampRecord:
    return run(few)


def test_rates_rise_by_equal_factors_from_end_to_end(record):
    assert [row["step"] for row in record.steps] == list(range(1, 21))
    assert [row["lr"] for row in record.steps] == pytest.approx(list(np.geomspace(1e-5, 1e-1, 20)))
    assert list(record.steps[0]) == ["step", "lr", "batch_loss", "loss"]


def test_the_optimizer_takes_the_steps_at_these_rates(few):
    """The first update of Adam moves weights by the rate."""
    module, batches = scratch.make_training(few, optim={"weight_decay": 0.0})
    before = {name: weight.detach().clone() for name, weight in module.model.named_parameters()}
    moved = []

    def watch(rise, trainer, module, *rest) -> None:
        moved.append(max((w.detach() - before[name]).abs().max() for name, w in module.model.named_parameters()))
        trainer.should_stop = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rise, "on_train_batch_end", watch)
        ramp(module, batches, 1, scratch.TRAINER, min_lr=1e-3, max_lr=1e-1, steps=20)
    assert [float(most) for most in moved] == pytest.approx([1e-3], rel=1e-2)


def test_equal_seeds_give_equal_ramps_and_others_do_not(few, record):
    torch.manual_seed(123)
    assert run(few) == record
    assert run(few, seed=2).steps[-1] != record.steps[-1]


@torch.no_grad()
def judged(module: Any, batches: Any) -> float:
    """Mean loss of the judging rows, a row at a time."""
    module.eval()
    rows = [
        {name: tensor[row : row + 1] for name, tensor in batch.items()}
        for batch in judging(batches)
        for row in range(len(batch["labels"]))
    ]
    return float(np.mean([float(module.training_step(row, 0)) for row in rows]))


def test_the_first_loss_is_that_of_the_judging_rows_before_any_step(few, record):
    module, batches = scratch.make_training(few)
    assert record.start == pytest.approx(judged(module, batches))


def test_the_loss_is_that_after_the_step_without_dropout(few):
    module, batches = scratch.make_training(few)
    end = ramp(module, batches, 1, scratch.TRAINER, **SETTINGS).steps[-1]["loss"]
    assert end == pytest.approx(judged(module, batches))


def test_judging_rows_are_of_all_lengths_and_little_padding(few):
    _, batches = scratch.make_training(few)
    assert sum(len(batch["labels"]) for batch in judging(batches)) == len(batches.validation)  # fewer than wanted
    batches.validation = batches.train  # 48 rows
    parts = judging(batches)
    assert [len(batch["labels"]) for batch in parts] == [16, 16] and JUDGING == 32
    lengths = [int(count) for batch in parts for count in batch["attention_mask"].sum(dim=1)]
    ordered = np.sort(batches.train.lengths)
    assert lengths == ordered[[int(1.5 * place + 0.75) for place in range(32)]].tolist()
    assert [batch["input_ids"].shape[1] for batch in parts] == [lengths[15], lengths[31]]


def test_gathered_gradients_make_one_step(few):
    changes = {"loader": {"batch_size": 4, "group_by_length": False}, "model": {"dropout": 0.0}}
    double = {"loader": {"batch_size": 8, "group_by_length": False}, "model": {"dropout": 0.0}}
    parts, whole = run(few, changes=changes, accumulate_grad_batches=2), run(few, changes=double)
    assert len(parts.steps) == 20
    assert parts.steps[0]["batch_loss"] == pytest.approx(whole.steps[0]["batch_loss"], abs=1e-5)
    assert parts.steps[5]["loss"] == pytest.approx(whole.steps[5]["loss"], abs=1e-4)


def test_a_loss_that_is_no_number_ends_it(few):
    record = run(few, max_lr=1e30, steps=40, gradient_clip_val=None)
    losses = [row["loss"] for row in record.steps]
    assert len(losses) < 40
    assert all(math.isfinite(loss) for loss in losses[:-1])


def test_a_loss_that_has_blown_up_ends_it(few):
    record = run(few, max_lr=1e4, steps=60)
    assert len(record.steps) < 60
    assert record.steps[-1]["loss"] > 1.5 * record.start


def test_it_leaves_nothing_behind(few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    module, batches = scratch.make_training(few)
    torch.manual_seed(5)
    ramp(module, batches, 1, scratch.TRAINER, **SETTINGS)
    assert torch.equal(torch.rand(3), expected)
    assert list(tmp_path.iterdir()) == []
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_as_such(few, number, monkeypatch):
    original = Rise.on_train_batch_end

    def end(rise, trainer, *rest) -> None:
        original(rise, trainer, *rest)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(Rise, "on_train_batch_end", end)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background has not
    try:
        with pytest.raises(Interrupted) as stop:
            run(few)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.value.signum == number


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_lr": 0.0}, r"^lr_find\.min_lr = 0\.0: give a positive number, such as 1e-7$"),
        ({"min_lr": math.nan}, r"^lr_find\.min_lr = nan: "),
        ({"max_lr": 1e-5}, r"^lr_find\.max_lr = 1e-05: give at least ten times lr_find\.min_lr, which is 1e-05$"),
        ({"max_lr": math.inf}, r"^lr_find\.max_lr = inf: "),
        ({"steps": 19}, r"^lr_find\.steps = 19: give at least 20$"),
        ({"accumulate_grad_batches": 0}, r"^trainer\.accumulate_grad_batches = 0"),
    ],
)
def test_settings_out_of_range(few, settings, message):
    with pytest.raises(UserError, match=message):
        run(few, **settings)
