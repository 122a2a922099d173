from __future__ import annotations

import copy

import pytest
import torch
from encoders import DISTILBERT, FAMILY, batch, random_model, without_dropout
from torch.nn.functional import cross_entropy

from tuneledger.learn.packed import bert
from tuneledger.learn.packed.bert import classify, packable
from tuneledger.learn.text_pairs import PairConfig

BATCHES = {
    "uneven": batch([5, 31, 2, 17], 31),
    "padded to a width": batch([5, 31, 2, 17], 48),
    "even": batch([8, 8], 8),
    "of one token": batch([1], 1),
    "without types": batch([5, 31, 2, 17], 31, types=False),
}
LABELS = torch.tensor([0, 2, 1, 1])


@pytest.fixture(params=FAMILY)
def config(request):
    return FAMILY[request.param]


def without_types_where_there_is_one(inputs: dict, config) -> dict:
    types = getattr(config, "encoder", config).type_vocab_size
    return {k: v for k, v in inputs.items() if k != "token_type_ids" or types > 1}


def refuse(*_, **__):
    raise AssertionError("the model's own forward pass was called")


@pytest.mark.parametrize("name", BATCHES)
def test_logits_are_the_models_own(config, name, monkeypatch):
    if isinstance(config, PairConfig) and name == "without types":
        pytest.skip("a pair has types")
    inputs = without_types_where_there_is_one(BATCHES[name], config)
    model = random_model(config).eval()
    reference = copy.deepcopy(model).double()
    with torch.inference_mode():
        expected = reference(**inputs).logits
        monkeypatch.setattr(type(model), "forward", refuse)
        found = classify(model, inputs)
    assert expected.std() > 0.1  # they differ, and with them what they follow from
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_the_models_own(config):
    inputs = without_types_where_there_is_one(BATCHES["uneven"], config)
    model = random_model(without_dropout(config))
    reference = copy.deepcopy(model).double()
    cross_entropy(classify(model, inputs), LABELS).backward()
    cross_entropy(reference(**inputs).logits, LABELS).backward()
    largest = max(parameter.grad.abs().max() for parameter in reference.parameters() if parameter.grad is not None)
    for (name, ours), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        if theirs.grad is None:
            assert ours.grad is None, name
        else:
            # Relative to all, since a key's bias has no effect and a gradient of nothing but rounding.
            assert (ours.grad - theirs.grad).abs().max() < 1e-5 * largest, name


def test_under_autocast_logits_and_gradients_are_as_close_as_the_models_own(config):
    inputs = without_types_where_there_is_one(BATCHES["uneven"], config)
    model = random_model(without_dropout(config))
    exact = copy.deepcopy(model).double()
    cross_entropy(exact(**inputs).logits, LABELS).backward()
    wanted = torch.cat([p.grad.flatten() for p in exact.parameters() if p.grad is not None])
    errors = []
    for compute in (classify, lambda model, inputs: model(**inputs).logits):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = compute(model, inputs)
        cross_entropy(logits.float(), LABELS).backward()
        assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
        found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        errors.append(float((found - wanted).norm() / wanted.norm()))
    ours, theirs = errors
    assert 1e-4 < ours < 1.5 * theirs  # rounded to bf16, and not more often than the model rounds


def test_gradients_under_dropout_are_those_of_finite_differences():
    model = random_model(FAMILY["bert"])
    inputs = BATCHES["uneven"]

    def loss() -> torch.Tensor:
        torch.manual_seed(5)
        return cross_entropy(classify(model, inputs).double(), LABELS)

    loss().backward()
    parameters = list(model.parameters())
    gradients = [p.grad.clone() for p in parameters]
    torch.manual_seed(6)
    directions = [torch.randn_like(p) for p in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    ends = []
    for step in (-1e-3, 2e-3):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(step * direction)
        ends.append(loss().item())
    assert (ends[1] - ends[0]) / 2e-3 == pytest.approx(slope, rel=1e-2)


def test_every_dropout_of_the_model_is_in_the_packed_path():
    """Logits vary under each probability alone as much as the model's own do."""
    inputs = BATCHES["uneven"]
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
        config = without_dropout(FAMILY["bert"])
        setattr(config, name, 0.3)
        model = random_model(config)
        with torch.no_grad():
            spreads = [
                torch.stack([compute(model, inputs) for _ in range(300)]).std(dim=0).mean().item()
                for compute in (classify, lambda model, inputs: model(**inputs).logits)
            ]
        assert spreads[0] > 0.01, name
        assert spreads[0] == pytest.approx(spreads[1], rel=0.15), name


def test_parts_in_evaluation_mode_drop_nothing():
    model = random_model(FAMILY["bert"])
    model.base_model.eval()
    model.dropout.eval()
    with torch.no_grad():
        assert torch.equal(classify(model, BATCHES["uneven"]), classify(model, BATCHES["uneven"]))


def other_model():
    return random_model(DISTILBERT)


def subclass():
    model = random_model(FAMILY["bert"])
    model.__class__ = type("BertForSequenceClassification", (type(model),), {"__module__": "somebody.elses"})
    return model


def in_double():
    return random_model(FAMILY["bert"]).double()


def checkpointed():
    model = random_model(FAMILY["bert"])
    model.gradient_checkpointing_enable()
    return model


def on_another_device():
    return random_model(FAMILY["bert"]).to("meta")


def with_an_adapter():
    class Adapted(torch.nn.Linear):
        pass

    model = random_model(FAMILY["bert"])
    model.base_model.encoder.layer[0].attention.self.query.__class__ = Adapted
    return model


@pytest.mark.parametrize("make", [with_an_adapter, other_model, subclass, in_double, checkpointed, on_another_device])
def test_it_steps_aside_for_models_it_does_not_know(make):
    assert not packable(make())


def test_aside_the_model_computes_by_itself(monkeypatch):
    inputs = batch([5, 31, 2, 17], 31, types=False)
    monkeypatch.setattr(bert, "layout_of", refuse)
    model = other_model().eval()
    with torch.inference_mode():
        assert torch.equal(classify(model, inputs), model(**inputs).logits)


@pytest.mark.parametrize("name", ["roberta", "bert"])
def test_the_paddings_id_amid_a_text_counts_as_the_model_counts_it(name):
    inputs = batch([5, 31, 2, 17], 31, types=False)
    inputs["input_ids"][1, 7] = 1
    model = random_model(FAMILY[name]).eval()
    with torch.inference_mode():
        torch.testing.assert_close(classify(model, inputs), model(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_frozen_layers_get_no_gradient():
    model = random_model(without_dropout(FAMILY["bert"]))
    for parameter in model.base_model.parameters():
        parameter.requires_grad_(False)
    classify(model, BATCHES["uneven"]).sum().backward()
    assert model.classifier.weight.grad is not None
    assert all(parameter.grad is None for parameter in model.base_model.parameters())


def test_for_padding_on_the_left_the_model_computes_by_itself():
    inputs = {name: tensor.flip(1) for name, tensor in BATCHES["uneven"].items()}
    model = random_model(FAMILY["bert"]).eval()
    with torch.inference_mode():
        assert torch.equal(classify(model, inputs), model(**inputs).logits)
