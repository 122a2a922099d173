from __future__ import annotations

import platform
from pathlib import Path

import pytest

from tuneledger.ledger import measure
from tuneledger.ledger.measure import cpu_name, hardware, training_cost, training_flops

TOTALS = {
    "train_seconds": 8.0,
    "validation_seconds": 2.0,
    "examples": 400,
    "padded_tokens": 16_000,
    "squared_lengths": 640_000,
    "resumed": 1,
}
PARAMETERS = {
    "parameters": 1_000,
    "trainable_parameters": 900,
    "matrix_parameters": 600,
    "trainable_matrix_parameters": 500,
}
SHAPE = {"layers": 2, "trained_layers": 1, "hidden_size": 32}


def test_training_cost():
    cost = training_cost(TOTALS, PARAMETERS, tokens_per_epoch=3_000, epochs=4, **SHAPE)
    flops = (2 * 600 + 4 * 500) * 16_000 + (4 * 2 + 8 * 1) * 32 * 640_000
    assert cost == {
        "fit_seconds": 10.0,
        "train_seconds": 8.0,
        "validation_seconds": 2.0,
        "examples": 400,
        "examples_per_second": 50.0,
        "tokens": 3_000,
        "tokens_total": 12_000,
        "tokens_per_second": 1_500.0,
        "padded_tokens_total": 16_000,
        "padded_tokens_per_second": 2_000.0,
        "flops": flops,
        "flops_per_second": flops / 8,
        "parameters": 1_000,
        "trainable_parameters": 900,
        "resumed": 1,
    }


def test_flops_of_bert_base_on_one_row_of_128():
    """85.6 M weights outside the embeddings: 6 N for 128 tokens is 66 GFLOP; attention adds 12 x 12 x 768 x 128²."""
    shape = {"layers": 12, "trained_layers": 12, "hidden_size": 768}
    flops = training_flops(85_648_130, 85_648_130, tokens=128, squared_lengths=128**2, **shape)
    assert flops == pytest.approx(66e9 + 1.8e9, rel=0.01)


def test_attention_counts_with_the_square_of_the_length():
    shape = {"tokens": 10, "layers": 3, "trained_layers": 3, "hidden_size": 8}
    once, twice = (training_flops(0, 0, squared_lengths=squared, **shape) for squared in (100, 200))
    assert twice == 2 * once == 12 * 3 * 8 * 200


def test_frozen_layers_are_passed_forward_alone():
    """Of a model frozen as a whole that is 2 N of 6 N, and a third of attention."""
    sizes = {"tokens": 10, "squared_lengths": 100, "layers": 3, "hidden_size": 8}
    frozen = training_flops(50, 0, trained_layers=0, **sizes)
    trained = training_flops(50, 50, trained_layers=3, **sizes)
    assert frozen == trained / 3


def test_hardware_without_a_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = hardware()
    assert list(found) == ["cpu", "cores", "memory_gib", "gpu", "gpus", "platform"]
    assert (found["gpu"], found["gpus"]) == (None, 0)
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0.1
    assert found["cpu"] == cpu_name() != ""


def test_hardware_with_gpus(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"NVIDIA A10G {index}")
    assert (hardware()["gpu"], hardware()["gpus"]) == ("NVIDIA A10G 0", 4)


class TestCpuName:
    def test_is_the_first_of_cpuinfo(self, tmp_path, monkeypatch):
        (tmp_path / "cpuinfo").write_text(
            "processor\t: 0\nmodel name\t: Some CPU: fast\nprocessor\t: 1\nmodel name\t: Other\n"
        )
        monkeypatch.setattr(measure, "Path", lambda name: tmp_path / Path(name).name)
        assert cpu_name() == "Some CPU: fast"

    @pytest.mark.parametrize("content", [None, "processor\t: 0\n"])
    def test_elsewhere_is_what_python_knows(self, tmp_path, monkeypatch, content):
        if content:
            (tmp_path / "cpuinfo").write_text(content)
        monkeypatch.setattr(measure, "Path", lambda name: tmp_path / Path(name).name)
        monkeypatch.setattr(platform, "processor", lambda: "arm")
        assert cpu_name() == "arm"
        monkeypatch.setattr(platform, "processor", lambda: "")
        monkeypatch.setattr(platform, "machine", lambda: "arm64")
        assert cpu_name() == "arm64"
