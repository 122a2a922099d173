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
    "long": batch([61, 60, 7, 61], 61),
}
ONE_TEXT = batch([23], 23)
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
    cross_entropy(logits.float(), LABELS[: len(logits)]).backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def in_pieces(monkeypatch) -> None:
    monkeypatch.setattr(bert, "computes", lambda *_: False)


def check_against_pieces(model, inputs, monkeypatch) -> None:
    logits, gradients = step(model, inputs)
    in_pieces(monkeypatch)
    wanted, pieces = step(model, inputs)
    assert torch.equal(logits, wanted)
    assert gradients.keys() == pieces.keys()
    for name, gradient in gradients.items():  # a norm's are sums over threads, in any order
        torch.testing.assert_close(gradient, pieces[name], atol=1e-6, rtol=1e-5, msg=name)
        assert "LayerNorm" in name or torch.equal(gradient, pieces[name]), name


@pytest.fixture(params=[1, 2, 3])
def threads(request) -> None:
    """The fixture that gives all tests one thread puts it back."""
    torch.set_num_threads(request.param)


@pytest.mark.parametrize("inputs", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("name", WITH_GELU)
def test_logits_and_gradients_are_those_of_the_pieces(name, inputs, calls, monkeypatch):
    model = random_model(configuration(name))
    inputs = {k: v for k, v in inputs.items() if k != "token_type_ids" or model.base_model.config.type_vocab_size > 1}
    check_against_pieces(model, inputs, monkeypatch)
    pairs = isinstance(model.config, PairConfig)
    assert calls == [False] * (model.base_model.config.num_hidden_layers - 1) + [not pairs]
    assert logits_of(model, inputs).std() > 0.01


@pytest.mark.parametrize("name", ["bert", "pair"])
@pytest.mark.parametrize("inputs", [BATCHES["long"], ONE_TEXT], ids=["long", "one text"])
def test_with_any_number_of_threads(name, inputs, threads, calls, monkeypatch):
    check_against_pieces(random_model(configuration(name)), inputs, monkeypatch)
    assert calls


@pytest.mark.parametrize("shape", [(16, 1), (32, 2), (64, 1), (96, 3), (144, 9)])
@pytest.mark.parametrize("name", ["bert", "pair"])
def test_widths_and_heads(shape, name, calls, monkeypatch):
    size, heads = shape
    model = random_model(configuration(name, hidden_size=size, num_attention_heads=heads, intermediate_size=37))
    check_against_pieces(model, BATCHES["uneven"], monkeypatch)
    assert calls


@pytest.mark.parametrize("name", ["bert", "pair"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_a_way_back_nothing_is_kept(name, mode, calls, monkeypatch):
    model = random_model(configuration(name)).eval()
    with mode(), monkeypatch.context() as within:
        within.setattr(layer, "_memory", None)
        found = logits_of(model, BATCHES["uneven"])
    assert calls
    in_pieces(monkeypatch)
    with mode():
        assert torch.equal(found, logits_of(model, BATCHES["uneven"]))


@pytest.mark.parametrize("name", ["bert", "pair"])
@pytest.mark.parametrize("frozen", [1, 2, 3])
def test_above_frozen_layers(name, frozen, monkeypatch):
    model = random_model(configuration(name))
    base = model.base_model
    for module in (base.embeddings, *base.encoder.layer[:frozen]):
        module.requires_grad_(False)
    assert len(step(model, BATCHES["uneven"])[1]) == sum(p.requires_grad for p in model.parameters())
    check_against_pieces(model, BATCHES["uneven"], monkeypatch)


def test_of_a_layer_trained_in_part_the_rest_stays():
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


def fewer_heads(model) -> None:
    attention = model.base_model.encoder.layer[0].attention
    heads = attention.self
    heads.num_attention_heads, heads.all_head_size = 2, 32
    for linear in (heads.query, heads.key, heads.value):
        linear.weight, linear.bias = (torch.nn.Parameter(p.detach()[:32]) for p in (linear.weight, linear.bias))
    attention.output.dense.weight = torch.nn.Parameter(attention.output.dense.weight.detach()[:, :32].contiguous())


@pytest.mark.parametrize("change", [other_activation, other_type, other_order, fewer_heads])
def test_other_layers_are_computed_in_pieces(change, calls):
    model = random_model(configuration("bert"))
    expected = step(copy.deepcopy(model), BATCHES["uneven"])[0]
    calls.clear()
    change(model)
    found = step(model, BATCHES["uneven"])[0]
    assert calls == [False, True]  # the second and the last
    assert torch.equal(found, expected) == (change in (other_type, other_order))


def test_heads_of_another_size_are_computed_in_pieces(calls):
    step(random_model(BertConfig(**{**SHAPE, "hidden_size": 24})), BATCHES["uneven"])
    assert calls == []


@pytest.mark.parametrize("way", ["layer_forward", "layer_backward"])
def test_what_fails_in_a_layer_is_an_error_and_says_why(way, monkeypatch):
    class Greedy:
        """The kernels, of which one is asked for more lines than any memory has."""

        def __getattr__(self, name):
            return getattr(kernels(), name)

    def greedy(task, *rest):
        task._obj.lines, lines = 2**45, task._obj.lines
        try:
            return getattr(kernels(), way)(task, *rest)
        finally:
            task._obj.lines = lines

    monkeypatch.setattr(Greedy, way, staticmethod(greedy), raising=False)
    monkeypatch.setattr(layer, "kernels", Greedy)
    with pytest.raises(RuntimeError, match=r"^an encoder layer cannot be computed: std::bad_"):
        step(random_model(configuration("bert")), BATCHES["uneven"])
    monkeypatch.undo()
    step(random_model(configuration("bert")), BATCHES["uneven"])


def test_records_on_both_sides_are_of_one_size():
    sizes = (ctypes.c_int64 * 3)()
    kernels().layer_struct_sizes(sizes)
    assert list(sizes) == [ctypes.sizeof(record) for record in (layer.Norm, layer.Layer, layer.Gradients)]
