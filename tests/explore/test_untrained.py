from __future__ import annotations

import numpy as np
import scratch
import torch

from tuneledger.explore.untrained import untrained
from tuneledger.text.batches import TokenizedSplit

ROWS = np.array([2, 3, 11, 19])


def run(few, seed: int, batch_size: int = 3):
    return untrained(
        ["0", "1"], few, ROWS, seed=seed, model=scratch.TINY_MODEL, batch_size=batch_size, accelerator="cpu"
    )


def test_it_is_the_model_that_training_starts_from(few):
    """Row by row, without padding and without this project's batches."""
    model = scratch.make_training(few, seed=5)[0].model.eval()
    split = TokenizedSplit(few / "validation.arrow")
    hidden, logits = run(few, seed=5)
    assert hidden.shape == (4, scratch.TINY_MODEL["architecture"]["hidden_size"])
    for place, row in enumerate(ROWS):
        ids, types = (torch.tensor(split[int(row)][name])[None].long() for name in ("input_ids", "token_type_ids"))
        with torch.inference_mode():
            expected = model(input_ids=ids, token_type_ids=types).logits[0]
            of_head = model.classifier(torch.from_numpy(hidden[place]))
        np.testing.assert_allclose(logits[place], expected, atol=1e-5)
        np.testing.assert_allclose(of_head, expected, atol=1e-5)


def test_another_seed_is_another_model(few):
    assert not np.allclose(run(few, seed=1)[0], run(few, seed=2)[0], atol=1e-2)
