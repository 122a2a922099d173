from __future__ import annotations

import copy
import ctypes

import pytest
import torch
from encoders import FAMILY, SHAPE, batch, random_model
from torch.nn.functional import cross_entropy
from transformers import BertConfig

from tuneledger.learn.packed import bert, layer
from tuneledger.learn.packed.bert import classify
from tuneledger.learn.packed.compiler import kernels
from tuneledger.learn.text_pairs import PairConfig

pytestmark = pytest.mark.skipif(kernels() is None, reason="no compiler")

BATCHES = {
    "uneven": batch([5, 31, 2, 17], 31),
    "even": batch([8, 8, 8, 8], 8),  # as many tokens as lines
    "of one token": batch([1, 1, 1, 1], 1),
}
LABELS = torch.tensor([0, 2, 1, 1])
WITH_GELU = [name for name in FAMILY if name != "bert-relu"]


def configuration(name: str, **changes):
    """Of heads of a size that the kernels know."""
    shape = {"hidden_size": 48, "num_attention_heads": 3, **changes}
    config = FAMILY[name]
    if isinstance(config, PairConfig):
        encoder = type(config.encoder)(**{**config.encoder.to_dict(), **shape})
        return PairConfig(encoder, num_labels=3, both_orders=True)
    return type(config)(**{**config.to_dict(), **shape})


@pytest.fixture
def calls(monkeypatch) -> list[bool]:
    """Of each layer computed whole: whether it gave the first tokens alone."""
    seen, whole = [], bert.whole_layer

    def watched(*args, first_only: bool = False):
        seen.append(first_only)
        return whole(*args, first_only=first_only)

    monkeypatch.setattr(bert, "whole_layer", watched)
    return seen


def logits_of(model, inputs) -> torch.Tensor:
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return classify(model, inputs)


def step(model, inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    logits = logits_of(model, inputs)
    cross_entropy(logits.float(), LABELS).backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def in_pieces(monkeypatch) -> None:
    monkeypatch.setattr(bert, "computes", lambda *_: False)


@pytest.mark.parametrize("inputs", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("name", WITH_GELU)
def test_logits_and_gradients_are_those_of_the_pieces(name, inputs, calls, monkeypatch):
    model = random_model(configuration(name))
    inputs = {k: v for k, v in inputs.items() if k != "token_type_ids" or model.base_model.config.type_vocab_size > 1}
    logits, gradients = step(model, inputs)
    pairs = isinstance(model.config, PairConfig)
    assert calls == [False] * (model.base_model.config.num_hidden_layers - 1) + [not pairs]
    in_pieces(monkeypatch)
    wanted, pieces = step(model, inputs)
    assert torch.equal(logits, wanted)
    assert logits.std() > 0.01
    assert gradients.keys() == pieces.keys()
    for parameter, gradient in gradients.items():  # a norm's are sums over threads, in any order
        torch.testing.assert_close(gradient, pieces[parameter], atol=1e-7, rtol=1e-5, msg=parameter)
        assert "LayerNorm" in parameter or torch.equal(gradient, pieces[parameter]), parameter


@pytest.mark.parametrize("shape", [(16, 1), (32, 2), (64, 1), (96, 3), (144, 9)])
def test_widths_and_heads(shape, calls, monkeypatch):
    size, heads = shape
    model = random_model(configuration("bert", hidden_size=size, num_attention_heads=heads, intermediate_size=37))
    found = step(model, BATCHES["uneven"])[0]
    assert calls
    in_pieces(monkeypatch)
    assert torch.equal(found, step(model, BATCHES["uneven"])[0])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_a_way_back(mode, calls, monkeypatch):
    model = random_model(configuration("bert")).eval()
    with mode():
        found = logits_of(model, BATCHES["uneven"])
        assert calls
        in_pieces(monkeypatch)
        assert torch.equal(found, logits_of(model, BATCHES["uneven"]))


@pytest.mark.parametrize("name", ["bert", "pair"])
@pytest.mark.parametrize("frozen", [1, 2, 3])
def test_above_frozen_layers(name, frozen, monkeypatch):
    model = random_model(configuration(name))
    base = model.base_model
    for module in (base.embeddings, *base.encoder.layer[:frozen]):
        module.requires_grad_(False)
    logits, gradients = step(model, BATCHES["uneven"])
    assert len(gradients) == sum(p.requires_grad for p in model.parameters())
    in_pieces(monkeypatch)
    wanted, pieces = step(model, BATCHES["uneven"])
    assert torch.equal(logits, wanted)
    assert all(torch.allclose(gradient, pieces[name], atol=1e-7, rtol=1e-5) for name, gradient in gradients.items())


def test_of_a_layer_trained_in_part_the_rest_stays(monkeypatch):
    model = random_model(configuration("bert"))
    wanted = step(model, BATCHES["uneven"])[1]
    model.base_model.encoder.layer[1].attention.requires_grad_(False)
    found = step(model, BATCHES["uneven"])[1]
    assert found.keys() == {name for name in wanted if "layer.1.attention" not in name}
    assert all(torch.equal(gradient, wanted[name]) for name, gradient in found.items())


def test_two_batches_on_their_way_do_not_share_memory():
    model = random_model(configuration("bert"))
    batches = BATCHES["uneven"], batch([30, 3, 9, 12], 30)
    wanted = [step(model, inputs)[1] for inputs in batches]
    losses = [cross_entropy(logits_of(model, inputs).float(), LABELS) for inputs in batches]
    for loss, gradients in zip(losses, wanted, strict=True):
        model.zero_grad()
        loss.backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert all(torch.equal(gradient, gradients[name]) for name, gradient in found.items())


def test_memory_is_used_again_also_by_longer_batches():
    layer._unused.clear()
    model = random_model(configuration("bert"))
    for inputs in (BATCHES["of one token"], BATCHES["uneven"], BATCHES["even"]):
        for _ in range(3):
            step(model, inputs)
    assert len(layer._unused) == 3  # one a layer
    blocks = {block.data_ptr() for block in layer._unused}
    step(model, BATCHES["uneven"])
    assert {block.data_ptr() for block in layer._unused} == blocks


def test_a_second_way_back_is_refused():
    model = random_model(configuration("bert"))
    loss = cross_entropy(logits_of(model, BATCHES["uneven"]).float(), LABELS)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one way back"):
        loss.backward()


def other_activation(model) -> None:
    model.base_model.encoder.layer[0].intermediate.intermediate_act_fn = torch.nn.ReLU()


def other_type(model) -> None:
    model.base_model.encoder.layer[0].output.dense.double()


def other_order(model) -> None:
    dense = model.base_model.encoder.layer[0].output.dense
    dense.weight = torch.nn.Parameter(dense.weight.detach().t().contiguous().t())


@pytest.mark.parametrize("change", [other_activation, other_type, other_order])
def test_other_layers_are_computed_in_pieces(change, calls):
    model = random_model(configuration("bert"))
    expected = step(copy.deepcopy(model), BATCHES["uneven"])[0]
    calls.clear()
    change(model)
    found = step(model, BATCHES["uneven"])[0]
    assert calls == [False, True]  # the second and the last
    assert torch.equal(found, expected) == (change is not other_activation)


def test_heads_of_another_size_are_computed_in_pieces(calls):
    step(random_model(BertConfig(**{**SHAPE, "hidden_size": 24})), BATCHES["uneven"])
    assert calls == []


def test_a_product_that_fails_is_an_error(monkeypatch):
    class Broken:
        layer_forward = staticmethod(lambda *_: False)
        layer_bytes = kernels().layer_bytes

    model = random_model(configuration("bert"))
    monkeypatch.setattr(layer, "kernels", lambda: Broken)
    with pytest.raises(RuntimeError, match="a product of an encoder layer failed"):
        logits_of(model, BATCHES["uneven"])


def test_records_on_both_sides_are_of_one_size():
    sizes = (ctypes.c_int64 * 3)()
    kernels().layer_struct_sizes(sizes)
    assert list(sizes) == [ctypes.sizeof(record) for record in (layer.Norm, layer.Layer, layer.Gradients)]
