from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scratch
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from tuneledger.learn.encoder import load_encoder
from tuneledger.learn.predict import predict
from tuneledger.text.batches import TokenizedSplit


@pytest.fixture(scope="module")
def model(few: Path, tmp_path_factory) -> Path:
    """A tiny model with weights so large that its logits differ a lot from row to row."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    encoder = load_encoder(["a", "b", "c"], **scratch.TINY_MODEL)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim > 1:
                parameter.mul_(20)
    encoder.save_pretrained(folder)
    AutoTokenizer.from_pretrained(few / "tokenizer").save_pretrained(folder)
    return folder


def alone(folder: Path, split: TokenizedSplit) -> np.ndarray:
    """Logits of each row on its own, without padding and without this project's batches."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = []
    with torch.inference_mode():
        for index in range(len(split)):
            ids, types = (torch.tensor(split[index][name])[None].long() for name in ("input_ids", "token_type_ids"))
            rows.append(model(input_ids=ids, token_type_ids=types).logits[0].numpy())
    return np.stack(rows)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_logits_are_those_of_each_row_alone_in_row_order(model, few, batch_size):
    expected = alone(model, TokenizedSplit(few / "validation.arrow"))
    assert np.ptp(expected, axis=0).min() > 0.5  # rows differ, so that a wrong order would show
    found = predict(model, few / "validation.arrow", batch_size=batch_size)
    assert found.dtype == np.float32
    assert found.shape == (20, 3)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_log_gets_no_progress_bar(model, few, capfd):
    transformers_logging.enable_progress_bar()
    predict(model, few / "validation.arrow", batch_size=8)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_twice_the_same(model, few):
    one, two = (predict(model, few / "validation.arrow", batch_size=8) for _ in range(2))
    assert one.tobytes() == two.tobytes()
