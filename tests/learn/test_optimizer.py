from __future__ import annotations

import copy
import math

import pytest
import scratch
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from tuneledger.errors import UserError
from tuneledger.learn.encoder import load_encoder
from tuneledger.learn.optimizer import check_optim, clip_gradients, make_optimizer


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("norm", [0.01, 0.5, 1000.0])
def test_steps_under_clipped_gradients_are_those_of_torchs_own_clipping(fused, norm):
    torch.manual_seed(1)
    ours = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Linear(3, 2))
    reference = copy.deepcopy(ours)
    optimizer, _ = make_optimizer(ours, 10, fused=fused, **{**scratch.OPTIM, "lr": 0.1, "eps": 0.1})
    plain, _ = make_optimizer(reference, 10, fused=False, **{**scratch.OPTIM, "lr": 0.1, "eps": 0.1})
    for _ in range(3):  # with gradients of 0.1 to 5, an eps that makes their size matter to Adam
        inputs = torch.randn(4, 5)
        for model in (ours, reference):
            model.zero_grad()
            model(inputs).square().sum().backward()
        clip_gradients(optimizer, norm)
        torch.nn.utils.clip_grad_norm_(reference.parameters(), norm)
        optimizer.step(), plain.step()
    for one, other in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def rates(steps: int, **changes) -> list[float]:
    """The learning rate of each step, and that after the last."""
    optimizer, schedule = make_optimizer(torch.nn.Linear(2, 2), steps, **{**scratch.OPTIM, "lr": 1.0, **changes})
    seen = [schedule.get_last_lr()[0]]
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        seen.append(schedule.get_last_lr()[0])
    return seen


class TestGroups:
    def test_every_parameter_is_in_exactly_one_and_only_matrices_decay(self):
        model = load_encoder(["0", "1"], **scratch.TINY_MODEL)
        optimizer, _ = make_optimizer(model, 10, **{**scratch.OPTIM, "weight_decay": 0.3})
        decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        counted = sum(len(group["params"]) for group in optimizer.param_groups)
        assert counted == len(decay) == len(list(model.parameters()))
        for name, parameter in model.named_parameters():
            spared = name.endswith("bias") or "LayerNorm" in name
            assert decay[id(parameter)] == (0.0 if spared else 0.3), name

    def test_frozen_weights_are_left_out(self):
        model = torch.nn.Linear(2, 2)
        model.bias.requires_grad = False
        optimizer, _ = make_optimizer(model, 10, **scratch.OPTIM)
        assert [len(group["params"]) for group in optimizer.param_groups] == [1, 0]

    def test_settings_arrive(self):
        settings = {**scratch.OPTIM, "betas": [0.8, 0.95], "eps": 1e-5}
        optimizer, _ = make_optimizer(torch.nn.Linear(2, 2), 10, **settings)
        assert optimizer.defaults["betas"] == (0.8, 0.95)
        assert optimizer.defaults["eps"] == 1e-5
        assert optimizer.defaults["lr"] == 1e-3

    def test_one_step_is_adamws(self):
        model = torch.nn.Linear(1, 1)
        torch.nn.init.ones_(model.weight), torch.nn.init.ones_(model.bias)
        settings = {**scratch.OPTIM, "lr": 0.1, "weight_decay": 0.5, "schedule": "constant", "warmup": 0}
        optimizer, _ = make_optimizer(model, 10, **settings)
        (model(torch.ones(1, 1))).sum().backward()
        optimizer.step()
        # Both gradients are 1, so Adam's first step is lr; the weight first decays by lr x weight_decay.
        assert model.weight.item() == pytest.approx(1 - 0.1 * 0.5 - 0.1, abs=1e-6)
        assert model.bias.item() == pytest.approx(1 - 0.1, abs=1e-6)


class TestLayerDecay:
    """Of two layers: the head at the whole rate, then down to the embeddings at its fourth power with 0.5."""

    def scales(self, model: torch.nn.Module) -> dict[str, float]:
        optimizer, _ = make_optimizer(model, 10, **{**scratch.OPTIM, "lr": 2.0, "warmup": 0, "layer_decay": 0.5})
        found = {id(p): group["lr"] / 2 for group in optimizer.param_groups for p in group["params"]}
        assert all(group["scale"] == group["lr"] / 2 for group in optimizer.param_groups)
        assert len(found) == sum(len(group["params"]) for group in optimizer.param_groups)
        return {name: found[id(parameter)] for name, parameter in model.named_parameters()}

    @pytest.mark.parametrize("head", [None, "pair"])
    def test_of_an_encoder(self, head):
        scales = self.scales(load_encoder(["0", "1"], **{**scratch.TINY_MODEL, "head": head}))
        expected = {"classifier": 1, "dense": 1, "pooler": 1, "layer.1.": 0.5, "layer.0.": 0.25, "embeddings": 0.125}
        for name, scale in scales.items():
            part = next(part for part in ("layer.1.", "layer.0.", "embeddings", *expected) if part in name)
            assert scale == expected[part], name
        assert set(scales.values()) == {1, 0.5, 0.25, 0.125}

    def test_of_a_model_with_other_names(self):
        config = GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=2, n_head=2, num_labels=2, pad_token_id=0)
        scales = self.scales(GPT2ForSequenceClassification(config))
        assert scales["transformer.wte.weight"] == scales["transformer.wpe.weight"] == 0.125
        assert scales["transformer.h.0.attn.c_attn.weight"] == 0.25
        assert scales["score.weight"] == scales["transformer.ln_f.weight"] == 1

    def test_the_schedule_keeps_the_ratios(self):
        model = load_encoder(["0", "1"], **scratch.TINY_MODEL)
        optimizer, schedule = make_optimizer(model, 10, **{**scratch.OPTIM, "warmup": 0.5, "layer_decay": 0.5})
        for _ in range(7):
            optimizer.step()
            schedule.step()
        rates = [group["lr"] / group["scale"] for group in optimizer.param_groups]
        assert rates == pytest.approx([rates[0]] * len(rates)) and 0 < rates[0] < scratch.OPTIM["lr"]

    def test_without_decay_there_are_two_groups(self):
        optimizer, _ = make_optimizer(load_encoder(["0", "1"], **scratch.TINY_MODEL), 10, **scratch.OPTIM)
        assert [group["scale"] for group in optimizer.param_groups] == [1, 1]


class TestSchedule:
    def test_linear_rises_and_falls_to_0(self):
        expected = [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0]
        assert rates(10, schedule="linear", warmup=0.2) == pytest.approx(expected)

    def test_cosine(self):
        falling = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(5)]
        assert rates(4, schedule="cosine", warmup=0) == pytest.approx(falling)

    def test_constant_rises_and_stays(self):
        assert rates(4, schedule="constant", warmup=0.5) == pytest.approx([0, 0.5, 1, 1, 1])

    def test_without_warmup_the_first_step_has_the_whole_rate(self):
        assert rates(2, schedule="linear", warmup=0)[0] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0}, r"^optim\.lr = 0: give a positive number, such as 1e-4$"),
        ({"lr": -1e-4}, r"^optim\.lr = -0\.0001: give a positive number"),
        ({"lr": float("nan")}, r"^optim\.lr = nan: give a positive number"),
        ({"lr": float("inf")}, r"^optim\.lr = inf: give a positive number"),
        ({"lr": "2e-5 "}, r"^optim\.lr = 2e-5 : give a positive number"),
        ({"lr": None}, r"^optim\.lr = None: give a positive number"),
        ({"weight_decay": -0.1}, r"^optim\.weight_decay = -0\.1: give 0 or a positive number$"),
        ({"weight_decay": float("nan")}, r"^optim\.weight_decay = nan: give 0"),
        pytest.param({"weight_decay": None}, r"^optim\.weight_decay = None: give 0"),
        ({"layer_decay": 0}, r"^optim\.layer_decay = 0: give a factor above 0, at most 1"),
        ({"layer_decay": 1.1}, r"^optim\.layer_decay = 1\.1: "),
        ({"schedule": "step"}, r"^optim\.schedule = step: choose linear, cosine, constant$"),
        ({"warmup": 1}, r"^optim\.warmup = 1: give a share of the steps, from 0 to below 1$"),
        ({"warmup": -0.1}, r"^optim\.warmup = -0\.1: give a share"),
        ({"warmup": float("nan")}, r"^optim\.warmup = nan: give a share"),
        pytest.param({"warmup": None}, r"^optim\.warmup = None: give a share"),
        pytest.param({"betas": [0.9]}, r"^optim\.betas = \[0\.9\]"),
        pytest.param({"betas": [0.9, 1.0]}, r"^optim\.betas = \[0\.9, 1\.0\]"),
        pytest.param({"eps": -1e-8}, r"^optim\.eps = -1e-08"),
        pytest.param({"eps": 1e-46}, r"^optim\.eps = 1e-46"),  # which is 0 in float32
        pytest.param({"eps": 0.0}, r"^optim\.eps = 0\.0: give a positive number"),
    ],
)
def test_a_value_out_of_its_range(change, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(torch.nn.Linear(2, 2), 10, **{**scratch.OPTIM, **change})
    with pytest.raises(UserError, match=message):
        check_optim(**{**scratch.OPTIM, **change})


def test_good_values_pass():
    check_optim(**scratch.OPTIM)
    check_optim(**{**scratch.OPTIM, "weight_decay": 0, "warmup": 0})
