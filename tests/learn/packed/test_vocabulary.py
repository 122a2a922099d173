from __future__ import annotations

import copy

import pytest
import torch
from encoders import FAMILY, batch, random_model, without_dropout
from torch.nn.functional import cross_entropy

from tuneledger.learn.packed.adamw import KernelAdamW
from tuneledger.learn.packed.bert import classify
from tuneledger.learn.packed.vocabulary import UsedEmbedding, vocabulary_in_use, whole_state

INPUTS = batch([5, 21, 2, 17], 21, types=False)
LABELS = torch.tensor([0, 2, 1, 1])
USED = INPUTS["input_ids"].unique()


def train(model, steps: int, *, weight_decay: float, sparse: bool = False) -> None:
    groups = [{"params": list(model.parameters()), "weight_decay": weight_decay}]
    optimizer = KernelAdamW(groups, any_gradient=True, lr=0.01) if sparse else torch.optim.AdamW(groups, lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(classify(model, INPUTS), LABELS).backward()
        optimizer.step()


@pytest.fixture(params=["bert", "roberta", "electra"])
def model(request):
    return random_model(without_dropout(FAMILY[request.param]))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_training_the_tokens_in_use_is_training_the_whole_vocabulary(model, weight_decay, sparse, compiled):
    whole = copy.deepcopy(model)
    before = model.get_input_embeddings().weight.detach().clone()
    train(whole, 20, weight_decay=weight_decay)
    with vocabulary_in_use(model, USED, sparse=sparse):
        assert len(model.get_input_embeddings().weight) == len(USED) + 1  # and a row for all others
        train(model, 20, weight_decay=weight_decay, sparse=sparse)
    after = model.get_input_embeddings().weight.detach()
    assert (after - before)[USED].abs().max() > 0.05
    unused = torch.tensor([row for row in range(len(before)) if row not in USED])
    assert len(unused) > 10
    assert bool((after - before)[unused].any()) == bool(weight_decay)
    for (name, ours), theirs in zip(model.named_parameters(), whole.parameters(), strict=True):
        if "key.bias" not in name:  # it has no effect, so that its steps follow from rounding alone
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4, msg=name)


def test_inside_the_state_to_save_has_the_whole_vocabulary(model):
    embedding = model.get_input_embeddings()
    names, shapes = zip(*((name, tensor.shape) for name, tensor in model.state_dict().items()), strict=True)
    with vocabulary_in_use(model, USED):
        train(model, 3, weight_decay=0.3)
        inside = whole_state(model)
        assert tuple(inside) == names
        assert tuple(tensor.shape for tensor in inside.values()) == shapes
        assert isinstance(model.get_input_embeddings(), UsedEmbedding)
    assert model.get_input_embeddings() is embedding
    for name, tensor in whole_state(model).items():
        assert torch.equal(tensor, inside[name]), name


def test_a_model_saved_inside_is_the_model_outside(model, tmp_path):
    with vocabulary_in_use(model, USED):
        train(model, 3, weight_decay=0.3)
        model.save_pretrained(tmp_path, state_dict=whole_state(model))
    again = type(model).from_pretrained(tmp_path)
    for (name, ours), theirs in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_frozen_vocabulary_stays(model):
    embedding = model.get_input_embeddings()
    embedding.weight.requires_grad_(False)
    before = embedding.weight.clone()
    with vocabulary_in_use(model, USED):
        train(model, 2, weight_decay=0.3)
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert not embedding.weight.requires_grad


def test_after_an_error_the_vocabulary_is_whole_again(model):
    embedding = model.get_input_embeddings()
    with pytest.raises(RuntimeError, match="stop"), vocabulary_in_use(model, USED):
        train(model, 1, weight_decay=0.0)
        raise RuntimeError("stop")
    assert model.get_input_embeddings() is embedding


def test_a_token_not_in_use_is_an_error_and_not_another_tokens_embedding(model):
    used = USED[INPUTS["input_ids"][0, 2] != USED]
    with vocabulary_in_use(model, used), pytest.raises(IndexError):
        classify(model, INPUTS)


def test_padding_can_be_looked_up_and_stays_without_a_gradient():
    model = random_model(FAMILY["bert"])
    with vocabulary_in_use(model, USED[USED != 1]):
        model(**INPUTS).logits.sum().backward()
        part = model.get_input_embeddings()
        assert part.used[part.padding_idx] == 1
        assert not part.weight.grad[part.padding_idx].any()
        assert part.weight.grad.any()


def test_where_nearly_all_tokens_are_in_use_nothing_is_replaced(model):
    embedding = model.get_input_embeddings()
    with vocabulary_in_use(model, torch.arange(118)):
        assert model.get_input_embeddings() is embedding
