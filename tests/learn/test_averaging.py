"""A running mean of the weights is what is validated and kept, and training goes on with the weights themselves."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tuneledger.errors import Interrupted, UserError
from tuneledger.learn.averaging import EVERY, WeightAverage
from tuneledger.learn.predict import predict


@pytest.fixture
def watched(train, tmp_path):
    """The head's weights after each of 12 steps of two epochs, at first, and the model that was kept."""

    def run(average: float | None, **trainer):
        seen: list[torch.Tensor] = []

        def watch(module) -> None:
            def look(*_) -> None:
                seen.append(module.model.classifier.weight.detach().clone())

            look()
            module.on_train_batch_end = look

        folder = tmp_path / str(average)
        result = train(folder, prepare=watch, average=average, select={"metric": "epoch", "mode": "max"}, **trainer)
        return (
            torch.stack(seen).double().numpy(),
            load_file(folder / "best/model.safetensors")["classifier.weight"],
            result,
        )

    return run


def test_the_mean_is_kept_and_the_weights_train_on(watched):
    plain, last, _ = watched(None)
    steps, kept, _ = watched(0.9)
    assert len(steps) == 13
    np.testing.assert_array_equal(steps, plain)  # the mean never gets into training
    np.testing.assert_array_equal(last, plain[-1].astype(np.float32))
    expected = steps[0]
    for step in range(EVERY, 13, EVERY):
        decay = min(0.9, (1 + step) / (10 + step)) ** EVERY
        expected = decay * expected + (1 - decay) * steps[step]
    np.testing.assert_allclose(kept, expected, atol=1e-7)
    assert np.abs(kept.numpy() - last.numpy()).max() > 1e-4


def test_each_epoch_of_few_steps_is_in_the_mean(watched):
    steps, kept, _ = watched(0.9, accumulate_grad_batches=3)  # two epochs of 6 batches, 2 steps
    first = (3 / 12) ** 2
    mean = first * steps[0] + (1 - first) * steps[6]
    second = (5 / 14) ** 2
    np.testing.assert_allclose(kept, second * mean + (1 - second) * steps[-1], atol=1e-7)
    assert np.abs(kept.numpy() - mean).max() > 1e-4


def test_scores_are_those_of_the_mean(train, few, tmp_path):
    train(tmp_path, average=0.9, max_epochs=1)
    [epoch] = [np.load(file) for file in (tmp_path / "validation").iterdir()]
    AutoTokenizer.from_pretrained(few / "tokenizer").save_pretrained(tmp_path / "best")
    kept = predict(tmp_path / "best", few / "validation.arrow", batch_size=16, accelerator="cpu")
    np.testing.assert_allclose(epoch["logits"], kept, atol=1e-6)


def test_goes_on_after_a_pause_as_if_there_had_been_none(train, tmp_path):
    whole = train(tmp_path / "whole", max_epochs=3, average=0.8)
    train(tmp_path / "parts", max_epochs=3, average=0.8, until_epoch=1)
    parts = train(tmp_path / "parts", max_epochs=3, average=0.8)
    assert parts.epochs == whole.epochs
    files = [(tmp_path / name / "best/model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]


@pytest.mark.parametrize("step", [5, 10, 12])
def test_goes_on_after_a_signal_as_if_there_had_been_none(train, tmp_path, step):
    """Also at steps at which the mean is updated, which the checkpoint has to have."""

    def stop(row) -> None:
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    settings = {"max_epochs": 3, "average": 0.8}
    whole = train(tmp_path / "whole", **settings)
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", on_step=stop, **settings)
    parts = train(tmp_path / "parts", **settings)
    assert parts.epochs == whole.epochs
    files = [(tmp_path / name / "best/model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]


@pytest.mark.parametrize("average", [0.0, 1.0, -0.5, 2.0])
def test_a_decay_that_is_none(average):
    with pytest.raises(UserError, match=rf"^trainer\.average = {average}: give a decay between 0 and 1"):
        WeightAverage(average)
