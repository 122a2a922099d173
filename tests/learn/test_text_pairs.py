"""The head that compares two texts: what it computes, that order can be made not to matter, saving and loading."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scratch
import torch
from encoders import SHAPE, batch, random_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig

from tuneledger.errors import UserError
from tuneledger.learn.encoder import check_head, check_pairs, load_encoder
from tuneledger.learn.predict import predict
from tuneledger.learn.text_pairs import PairClassifier, PairConfig, swap
from tuneledger.text.tokenize import load_tokenizer

MINILM = {**scratch.TINY_MODEL, "architecture": None, "head": "pair"}
INPUTS = batch([5, 31, 2, 17], 33)


def pair(*texts: list[int]) -> dict[str, torch.Tensor]:
    """A row of a first token 7 and two texts, and a row of other lengths beside it."""
    rows = [[[7, *texts[0]], texts[1]], [[7, 9, 9, 9], [8, 8, 8, 8]]]
    width = max(len(first) + len(second) for first, second in rows)
    padding = [[0] * (width - len(first) - len(second)) for first, second in rows]
    return {
        "input_ids": torch.tensor([a + b + p for (a, b), p in zip(rows, padding, strict=True)]),
        "token_type_ids": torch.tensor(
            [[0] * len(a) + [1] * len(b) + p for (a, b), p in zip(rows, padding, strict=True)]
        ),
        "attention_mask": torch.tensor([[1] * len(a + b) + p for (a, b), p in zip(rows, padding, strict=True)]),
    }


class TestSwap:
    @pytest.mark.parametrize("texts", [([1, 2, 3], [4, 5]), ([1], [2, 3, 4, 5]), ([1, 2], [3, 4]), ([], [5])])
    def test_rows_asked_for_change_order_and_no_others(self, texts):
        swapped = swap(pair(*texts), torch.tensor([True, False]))
        expected = pair(*texts[::-1])
        for name, tensor in expected.items():
            assert torch.equal(swapped[name][0], tensor[0]), name
            assert torch.equal(swapped[name][1], pair(*texts)[name][1]), name

    def test_twice_is_as_before(self):
        everywhere = torch.ones(4, dtype=torch.bool)
        again = swap(swap(INPUTS, everywhere), everywhere)
        assert all(torch.equal(again[name], tensor) for name, tensor in INPUTS.items())


class TestLogits:
    def test_are_those_of_the_definition(self):
        """Written down row by row from the encoder's own hidden states."""
        model = random_model(PairConfig(BertConfig(**SHAPE), num_labels=3)).eval()
        with torch.inference_mode():
            found = model(**INPUTS).logits
            hidden = model.encoder(**INPUTS).last_hidden_state
            for row, length in enumerate(INPUTS["attention_mask"].sum(dim=1).tolist()):
                types = INPUTS["token_type_ids"][row, :length]
                u, v = (hidden[row, :length][types == kind].mean(dim=0) for kind in (0, 1))
                seen = torch.cat([hidden[row, 0], (u - v).abs(), u * v])
                wanted = model.classifier(torch.tanh(model.dense(seen)))
                torch.testing.assert_close(found[row], wanted, atol=1e-5, rtol=1e-5)
        assert found.std() > 0.1

    def test_with_both_orders_the_answer_is_their_mean(self):
        model = random_model(PairConfig(BertConfig(**SHAPE), num_labels=3)).eval()
        everywhere = torch.ones(4, dtype=torch.bool)
        with torch.inference_mode():
            orders = [model(**inputs).logits for inputs in (INPUTS, swap(INPUTS, everywhere))]
            model.config.both_orders = True
            both = [model(**inputs).logits for inputs in (INPUTS, swap(INPUTS, everywhere))]
        assert (orders[0] - orders[1]).abs().max() > 0.01
        torch.testing.assert_close(both[0], sum(orders) / 2)
        torch.testing.assert_close(both[0], both[1])

    def test_with_both_orders_training_draws_one(self):
        model = random_model(PairConfig(BertConfig(**SHAPE), num_labels=3, both_orders=True, head_dropout=0.0))
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        torch.manual_seed(1)
        drawn = torch.stack([model(**INPUTS).logits for _ in range(20)])
        model.config.both_orders = False
        orders = [model(**inputs).logits for inputs in (INPUTS, swap(INPUTS, torch.ones(4, dtype=torch.bool)))]
        for row in range(4):
            kinds = [[torch.allclose(logits[row], order[row], atol=1e-6) for order in orders] for logits in drawn]
            assert all(any(kind) for kind in kinds)
            assert {True, False} <= {kind[0] for kind in kinds}

    def test_a_pair_of_which_a_text_is_empty_has_finite_logits(self):
        model = random_model(PairConfig(BertConfig(**SHAPE), num_labels=3)).eval()
        inputs = {**INPUTS, "token_type_ids": torch.zeros_like(INPUTS["token_type_ids"])}
        assert model(**inputs).logits.isfinite().all()


class TestLoading:
    def test_the_encoder_is_the_checkpoints_and_the_head_is_drawn(self):
        torch.manual_seed(1)
        model = load_encoder(["no", "yes"], **MINILM)
        plain = load_encoder(["no", "yes"], **{**MINILM, "head": None})
        weights = model.encoder.state_dict()
        assert weights and all(torch.equal(tensor, plain.bert.state_dict()[name]) for name, tensor in weights.items())
        assert not any("pooler" in name for name in weights)
        assert 0.01 < model.dense.weight.std() < 0.03 and not model.dense.bias.any()
        assert model.training and model.config.id2label == {0: "no", 1: "yes"}
        torch.manual_seed(1)
        again = load_encoder(["no", "yes"], **MINILM)
        assert torch.equal(model.dense.weight, again.dense.weight)

    def test_a_saved_one_is_loaded_as_it_is(self, tmp_path):
        model = load_encoder(["no", "yes"], **{**MINILM, "both_orders": True}).eval()
        model.save_pretrained(tmp_path)
        own, by_path = (
            AutoModelForSequenceClassification.from_pretrained(tmp_path),
            load_encoder(["no", "yes"], **{**MINILM, "head": None, "path": str(tmp_path)}).eval(),
        )
        inputs = {name: tensor.clamp(max=1000) for name, tensor in INPUTS.items()}
        with torch.inference_mode():
            expected = model(**inputs).logits
            assert torch.equal(own(**inputs).logits, expected)
            assert torch.equal(by_path(**inputs).logits, expected)
        assert "site-packages" not in (tmp_path / "config.json").read_text()

    def test_its_folder_tokenizes_without_the_class(self, tmp_path):
        """In a process of its own, as stage tokenize is one."""
        load_encoder(["no", "yes"], **MINILM).save_pretrained(tmp_path)
        load_tokenizer(path=MINILM["path"], revision=None, max_length=64).save_pretrained(tmp_path)
        code = (
            "import sys; from tuneledger.text.tokenize import load_tokenizer as load; "
            f"load(path={str(tmp_path)!r}, revision=None, max_length=512); "
            "assert 'tuneledger.learn.text_pairs' not in sys.modules; "
            f"load(path={str(tmp_path)!r}, revision=None, max_length=513)"
        )
        done = scratch.run(tmp_path, sys.executable, "-c", code, check=False, PYTHONPATH=str(scratch.ROOT / "src"))
        assert "takes from 4 to 512 tokens an example" in done.stderr, done.stderr

    def test_of_random_weights(self):
        model = load_encoder(["a", "b", "c"], **{**scratch.TINY_MODEL, "head": "pair"})
        assert isinstance(model, PairClassifier)
        assert model.config.encoder.hidden_size == 32 and model.classifier.out_features == 3

    def test_dropout_is_set_everywhere(self):
        model = load_encoder(["a", "b"], **{**scratch.TINY_MODEL, "head": "pair", "dropout": 0.25})
        assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}

    def test_an_encoder_without_types(self, tmp_path):
        from encoders import DISTILBERT

        random_model(DISTILBERT).save_pretrained(tmp_path)
        with pytest.raises(UserError, match=r"^model\.head = pair needs an encoder that tells two texts apart"):
            load_encoder(["a", "b"], **{**MINILM, "path": str(tmp_path)})


@pytest.mark.parametrize(
    ("texts", "types", "message"),
    [(1, True, r"compares two texts, but data\.text names 1$"), (2, False, "but its tokenizer gives no token types$")],
)
def test_data_that_a_pair_model_cannot_compare(texts, types, message):
    pair, plain = (random_model(config) for config in (PairConfig(BertConfig(**SHAPE)), BertConfig(**SHAPE)))
    with pytest.raises(UserError, match=message):
        check_pairs(pair, texts=texts, types=types)
    check_pairs(plain, texts=texts, types=types)
    check_pairs(pair, texts=2, types=True)


def test_trains_with_both_orders_and_predicts_what_it_validated(train, few, tmp_path):
    changes = {"model": {"head": "pair", "both_orders": True}, "loss": {"r_drop": 0.5}}
    result = train(tmp_path / "run", changes=changes, select={"metric": "epoch", "mode": "max"})
    again = train(tmp_path / "again", changes=changes, select={"metric": "epoch", "mode": "max"})
    assert result.steps == again.steps
    AutoTokenizer.from_pretrained(few / "tokenizer").save_pretrained(tmp_path / "run/best")
    logits = predict(tmp_path / "run/best", few / "validation.arrow", batch_size=7, accelerator="cpu")
    seen = np.load(tmp_path / "run/validation/epoch-2.npz")
    np.testing.assert_allclose(seen["logits"], logits, atol=1e-5)
    assert seen["hidden"].shape == (20, 32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "mean", "both_orders": False, "texts": 2}, r"^model\.head = mean: choose pair, or null"),
        ({"head": "pair", "both_orders": False, "texts": 1}, r"^model\.head = pair compares two texts, but data\.text"),
        ({"head": None, "both_orders": True, "texts": 2}, r"^model\.both_orders = true needs model\.head=pair$"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(UserError, match=message):
        check_head(**settings)
