from __future__ import annotations

import pytest

from tuneledger.conf import compose
from tuneledger.errors import UserError
from tuneledger.learn.build import build

META = {"text": ["sentence1", "sentence2"], "labels": ["0", "1"], "tokenizer": {"max_length": 64}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("max_position_embeddings: 32", r"^tokenizer\.max_length = 64, but the model takes at most 32 tokens"),
        ("vocab_size: 500", r"^tokenizer\.path names a tokenizer with 30522 token ids, .* for 500: "),
    ],
)
def test_a_model_that_cannot_take_the_tokens_is_refused_before_training(few, entry, message):
    config = compose(["model=tiny", f"+model.architecture.{entry.replace(': ', '=')}"])
    with pytest.raises(UserError, match=message):
        build(config, META, few)
