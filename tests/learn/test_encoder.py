from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import scratch
import torch
from safetensors.torch import load_file, save_file
from transformers import AlbertConfig, AlbertForSequenceClassification

from tuneledger.errors import UserError
from tuneledger.learn.encoder import check_tokens, count_parameters, load_encoder

PRETRAINED = {**scratch.TINY_MODEL, "architecture": None}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A tiny classifier for three labels, saved."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(5)
    load_encoder(["a", "b", "c"], **scratch.TINY_MODEL).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """The same, for a test that damages it."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def load(folder: Path | str, labels: str = "abc", **changes):
    return load_encoder(list(labels), **{**PRETRAINED, "path": str(folder), **changes})


def test_random_weights_of_the_given_shape():
    model = load_encoder(["no", "yes"], **scratch.TINY_MODEL)
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (32, 2)
    assert len(model.bert.encoder.layer) == 2
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert model.config.label2id == {"no": 0, "yes": 1}
    assert model.classifier.out_features == 2


def test_random_weights_follow_torchs_generator():
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return load_encoder(["0", "1"], **scratch.TINY_MODEL).bert.encoder.layer[0].attention.self.query.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("architecture", [None, scratch.TINY_MODEL["architecture"]])
def test_every_module_trains_and_every_weight_is_float32(saved, architecture):
    model = load(saved, architecture=architecture)
    assert all(module.training for module in model.modules())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in model.parameters())


def test_pretrained_weights_are_the_files(saved):
    weights = load_file(saved / "model.safetensors")
    for name, value in load(saved).state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_half_precision_weights_become_float32(copy):
    weights = {name: value.half() for name, value in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    assert {p.dtype for p in load(copy).parameters()} == {torch.float32}


def test_an_encoder_without_head_gets_a_new_one_drawn_from_the_seed():
    def head(seed: int):
        torch.manual_seed(seed)
        model = load_encoder(["0", "1"], **PRETRAINED)
        return model.classifier.weight, model.bert.embeddings.word_embeddings.weight

    (one, body), (same, same_body), (other, _) = head(1), head(1), head(2)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(body, same_body)
    assert one.shape == (2, 384)


class TestHead:
    def test_for_other_labels_is_refused_by_name(self, saved):
        expected = (
            rf"^model {saved} has a head for 3 labels, the data has 2 \(no, yes\): "
            r"set model\.new_head=true to replace it$"
        )
        with pytest.raises(UserError, match=expected):
            load_encoder(["no", "yes"], **{**PRETRAINED, "path": str(saved)})

    def test_is_replaced_on_demand_and_the_body_kept(self, saved):
        model = load(saved, "ab", new_head=True)
        weights = load_file(saved / "model.safetensors")
        assert model.classifier.weight.shape == (2, 32)
        for name, value in model.bert.state_dict().items():
            assert torch.equal(value, weights[f"bert.{name}"]), name


class TestDropout:
    def test_null_keeps_the_checkpoints(self, saved):
        config = load(saved).config
        assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)

    @pytest.mark.parametrize("architecture", [None, scratch.TINY_MODEL["architecture"]])
    def test_reaches_every_dropout_module(self, saved, architecture):
        model = load(saved, dropout=0.3, architecture=architecture)
        found = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
        assert len(found) > 4
        assert set(found) == {0.3}
        assert model.config.attention_probs_dropout_prob == 0.3

    @pytest.mark.parametrize("dropout", [-0.1, 1, float("nan")])
    def test_out_of_range(self, saved, dropout):
        with pytest.raises(
            UserError, match=rf"^model\.dropout = {dropout}: give a probability from 0 to below 1, or null$"
        ):
            load(saved, dropout=dropout)


class TestRefused:
    def test_other_weights_than_expected(self, saved):
        with pytest.raises(UserError, match=r"model\.safetensors: SHA-256 is [0-9a-f]{64}, but model\.sha256 expects"):
            load(saved, sha256="0" * 64)

    def test_a_pickle_in_place_of_safetensors(self, copy):
        torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
        (copy / "model.safetensors").unlink()
        with pytest.raises(UserError, match=f"^model folder {copy} cannot be loaded: .*safetensors"):
            load(copy)

    def test_cut_off_weights(self, copy):
        data = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
        with pytest.raises(UserError, match=f"^model folder {copy} cannot be loaded: "):
            load(copy)

    def test_a_body_that_lacks_weights(self, copy):
        weights = load_file(copy / "model.safetensors")
        del weights["bert.encoder.layer.1.output.dense.weight"]
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        expected = r"lacks weights of its own architecture: bert\.encoder\.layer\.1\.output\.dense\.weight$"
        with pytest.raises(UserError, match=expected):
            load(copy)

    def test_broken_config(self, copy):
        (copy / "config.json").write_text("{")
        with pytest.raises(UserError, match=f"^model folder {copy} cannot be loaded: "):
            load(copy)

    def test_a_model_that_needs_its_own_code(self, copy):
        (copy / "evil.py").write_text("open('run', 'w')\n")
        config = {"model_type": "strange", "auto_map": {"AutoConfig": "evil.Config"}}
        (copy / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=f"^model folder {copy} cannot be loaded: "):
            load(copy)

    def test_a_misspelt_architecture(self):
        model = {**scratch.TINY_MODEL, "architecture": {"hiden_size": 32}}
        with pytest.raises(UserError, match=r"unknown key model\.architecture\.hiden_size"):
            load_encoder(["0", "1"], **model)

    def test_a_shape_that_cannot_be_built(self):
        model = {**scratch.TINY_MODEL, "architecture": {"hidden_size": 33, "num_attention_heads": 2}}
        with pytest.raises(UserError, match=r"model\.architecture"):
            load_encoder(["0", "1"], **model)


class TestCheckTokens:
    @pytest.fixture(scope="class")
    def encoder(self):
        architecture = {**scratch.TINY_MODEL["architecture"], "max_position_embeddings": 64, "vocab_size": 1000}
        return load_encoder(["0", "1"], **{**scratch.TINY_MODEL, "architecture": architecture})

    def test_what_the_model_can_just_take(self, encoder):
        check_tokens(encoder, max_length=64, vocabulary=1000)
        encoder(input_ids=torch.full((1, 64), 999))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"max_length": 65}, r"^tokenizer\.max_length = 65, but the model takes at most 64 tokens: .*model\.path"),
            (
                {"vocabulary": 1001},
                r"^tokenizer\.path names a tokenizer with 1001 token ids, .* has embeddings for 1000: ",
            ),
        ],
    )
    def test_one_more_is_refused(self, encoder, change, message):
        with pytest.raises(UserError, match=message):
            check_tokens(encoder, **{"max_length": 64, "vocabulary": 1000, **change})


class TestFrozenLayers:
    def trained(self, saved: Path, layers: int, **changes) -> set[str]:
        model = load(saved, frozen_layers=layers, **changes)
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    def test_none(self, saved):
        assert any("embeddings" in name for name in self.trained(saved, 0))

    @pytest.mark.parametrize("head", [None, "pair"])
    def test_the_first_and_the_embeddings(self, saved, head):
        names = self.trained(saved, 1, head=head)
        assert any("layer.1." in name for name in names) and any("classifier" in name for name in names)
        assert not any("layer.0." in name or "embeddings" in name for name in names)

    def test_all_leave_the_head(self, saved):
        names = self.trained(saved, 2)
        assert names and not any("layer." in name or "embeddings" in name for name in names)

    @pytest.mark.parametrize("layers", [-1, 3, 0.5])
    def test_out_of_range(self, saved, layers):
        message = rf"^model\.frozen_layers = {layers}: give 0 to 2, the layers of this model$"
        with pytest.raises(UserError, match=message):
            load(saved, frozen_layers=layers)

    def test_layers_that_share_their_weights(self, tmp_path):
        shape = {"vocab_size": 50, "embedding_size": 8, "hidden_size": 8, "intermediate_size": 8}
        config = AlbertConfig(**shape, num_attention_heads=2, num_hidden_layers=3, num_labels=3)
        AlbertForSequenceClassification(config).save_pretrained(tmp_path)
        assert load(tmp_path, frozen_layers=0)
        with pytest.raises(UserError, match=r"^model\.frozen_layers = 1: the layers of this albert share weights"):
            load(tmp_path, frozen_layers=1)


def test_count_parameters():
    model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    model[2].weight.requires_grad = False
    expected = {"parameters": 63, "trainable_parameters": 57}
    assert count_parameters(model) == {**expected, "matrix_parameters": 23, "trainable_matrix_parameters": 17}
    model[0].weight.requires_grad = False
    assert count_parameters(model)["trainable_matrix_parameters"] == 17
