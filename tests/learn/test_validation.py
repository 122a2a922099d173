from __future__ import annotations

import numpy as np
import pytest
import scratch
import torch

from tuneledger.learn.datamodule import Batches
from tuneledger.learn.predict import predict
from tuneledger.learn.representations import represent
from tuneledger.learn.validation import SAMPLE, sample, write_validation
from tuneledger.text.batches import TokenizedSplit


@pytest.fixture
def recorded(train, few, tmp_path):
    """(fit, arrays of validation.npz) of two epochs; the model of the kept one is in run/best."""
    fit = train(select={"metric": "epoch", "mode": "max"})
    labels = TokenizedSplit(few / "validation.arrow").labels
    write_validation(tmp_path / "validation.npz", tmp_path / "run", labels, len(fit.epochs))
    with np.load(tmp_path / "validation.npz", allow_pickle=False) as arrays:
        return fit, dict(arrays)


def test_logits_are_the_kept_models_in_row_order(recorded, few, tmp_path):
    _, arrays = recorded
    best = tmp_path / "run" / "best"
    for file in (few / "tokenizer").iterdir():
        (best / file.name).write_bytes(file.read_bytes())
    logits = predict(best, few / "validation.arrow", batch_size=7, accelerator="cpu")
    np.testing.assert_allclose(arrays["logits"][1], logits, atol=1e-5)
    assert not np.allclose(arrays["logits"][0], logits, atol=1e-3)


def test_accuracy_of_the_record_is_that_of_the_table(recorded):
    fit, arrays = recorded
    right = arrays["logits"].argmax(axis=2) == arrays["labels"]
    assert right.mean(axis=1) == pytest.approx([row["accuracy"] for row in fit.epochs])


def test_the_last_layer_makes_the_logits_of_what_it_saw(recorded, few, tmp_path):
    from safetensors.numpy import load_file

    _, arrays = recorded
    weights = load_file(tmp_path / "run" / "best" / "model.safetensors")
    hidden = arrays["hidden"][1].astype(np.float32)
    assert hidden.shape == (20, 32)
    logits = hidden @ weights["classifier.weight"].T + weights["classifier.bias"]
    np.testing.assert_allclose(logits, arrays["logits"][1], atol=2e-3)  # float16 keeps three digits


def test_represent_gives_rows_in_the_order_asked_for(few):
    module, batches = scratch.make_training(few)
    rows = np.array([13, 2, 7, 0])
    split = TokenizedSplit(few / "validation.arrow")
    hidden, logits = represent(module.model, split, rows, batch_size=3, collate=batches.collate)
    one = represent(module.model, split, rows[2:3], batch_size=1, collate=batches.collate)
    np.testing.assert_allclose(hidden[2:3], one[0], atol=1e-5)
    np.testing.assert_allclose(logits[2:3], one[1], atol=1e-5)
    head = module.model.classifier
    np.testing.assert_allclose(head(torch.from_numpy(hidden)).detach().numpy(), logits, atol=1e-5)


def test_a_sample_is_sorted_without_repeats_and_always_the_same():
    assert sample(7).tolist() == list(range(7))
    chosen = sample(5000)
    assert len(chosen) == SAMPLE == len(set(chosen.tolist()))
    assert (np.diff(chosen) > 0).all()
    assert (chosen == sample(5000)).all()


def test_batches_know_their_validation_rows(few):
    _, batches = scratch.make_training(few)
    assert isinstance(batches, Batches)
    assert sorted(np.concatenate(batches.validation_batches).tolist()) == list(range(20))
