"""Several processes train as one does: the same losses, scores and weights, and the same stop after a signal."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import scratch
from safetensors.numpy import load_file

from tuneledger.errors import UserError
from tuneledger.learn.processes import process_number, started_as_further_process

# Batches that two processes cannot share evenly, and a last one of a single row. No dropout, which each draws itself.
LOADER = {"batch_size": 47, "eval_batch_size": 7}
SETTINGS = {**scratch.TRAINER, "max_epochs": 4, "checkpoint_every_n_steps": 1}
PROCESSES = 2
IN_BF16 = 2e-3  # by which losses may differ


def slurm(task: int, port: int) -> dict[str, str]:
    """What srun gives each task of a job on one node."""
    job = {"SLURM_JOB_ID": "21345", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "localhost", "MASTER_PORT": str(port)}
    count = {"SLURM_NTASKS": str(PROCESSES), "SLURM_NTASKS_PER_NODE": str(PROCESSES), "SLURM_NNODES": "1"}
    count["SLURM_STEP_NUM_TASKS"] = str(PROCESSES)
    return job | count | {"SLURM_NODEID": "0", "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)}


def torchrun(task: int, port: int) -> dict[str, str]:
    """What torchrun gives each of its workers."""
    group = {"TORCHELASTIC_RUN_ID": "train", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    count = {"WORLD_SIZE": str(PROCESSES), "LOCAL_WORLD_SIZE": str(PROCESSES)}
    return group | count | {"RANK": str(task), "LOCAL_RANK": str(task), "GROUP_RANK": "0"}


def train(
    tokens: Path,
    folder: Path,
    changes: dict,
    environment: dict[str, str],
    stop_at: int = 0,
    model: dict | None = None,
    loss: dict | None = None,
) -> None:
    """One process of a training; with `stop_at` it gets a SIGTERM after so many steps."""
    os.environ.update(environment)
    import torch

    from tuneledger.errors import Interrupted
    from tuneledger.learn.fit import fit

    torch.set_num_threads(1)

    def on_step(row: dict[str, float]) -> None:
        if row["step"] == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    module, batches = scratch.make_training(tokens, loader=LOADER, model=model or {"dropout": 0.0}, loss=loss or {})
    try:
        result = fit(module, batches, folder, 1, on_step, scratch.nothing, **{**SETTINGS, **changes})
    except Interrupted as stop:
        os._exit(128 + stop.signum)
    number = environment.get("SLURM_PROCID") or environment.get("RANK", "alone")
    rows = [list(row.values()) for row in result.steps], [list(row.values()) for row in result.epochs]
    np.savez(folder / f"record-{number}.npz", steps=rows[0], epochs=rows[1], examples=result.totals["examples"])


@pytest.fixture(scope="module")
def context():
    """Processes forked from one that has already imported everything."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tuneledger.learn.fit", "tuneledger.learn.encoder", "scratch"])
    return server


@pytest.fixture(scope="module")
def alone(context, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of it."""
    folder = tmp_path_factory.mktemp("alone")
    process = context.Process(target=train, args=(few, folder, {}, {}))
    process.start()
    process.join()
    assert process.exitcode == 0
    return folder


def together(
    context,
    few: Path,
    folder: Path,
    environment=torchrun,
    stop_at: tuple[int, int] = (0, 0),
    changes: dict | None = None,
    **settings: dict,
) -> list[int]:
    """Run a training's processes to their end; their exit codes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    changes = {**(changes or {}), "devices": PROCESSES}
    tasks = [
        context.Process(
            target=train, args=(few, folder, changes, environment(task, port), stop_at[task]), kwargs=settings
        )
        for task in range(PROCESSES)
    ]
    for task in tasks:
        task.start()
    deadline = time.monotonic() + 60
    while any(task.is_alive() for task in tasks) and time.monotonic() < deadline:
        time.sleep(0.02)
    for task in tasks:
        task.kill()  # does nothing to one that has ended
        task.join()
    return [task.exitcode for task in tasks]


def assert_same(folder: Path, alone: Path, steps: int = 8) -> None:
    """In float32, up to the order in which sums are taken."""
    expected = np.load(alone / "record-alone.npz")
    assert expected["steps"].shape == (steps, 4)
    for number in range(PROCESSES):
        record = np.load(folder / f"record-{number}.npz")
        np.testing.assert_allclose(record["steps"], expected["steps"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(record["epochs"], expected["epochs"], rtol=0, atol=1e-6)
        assert record["examples"] == expected["examples"] == 4 * 48
    for epoch in range(1, 5):
        found, wanted = (np.load(path / "validation" / f"epoch-{epoch}.npz") for path in (folder, alone))
        assert wanted["logits"].shape == (20, 2)
        np.testing.assert_allclose(found["logits"], wanted["logits"], atol=1e-5)
        np.testing.assert_allclose(found["hidden"], wanted["hidden"], atol=1e-3)  # kept in half precision
    found, wanted = (load_file(path / "best" / "model.safetensors") for path in (folder, alone))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("environment", [torchrun, slurm])
def test_two_processes_train_as_one(environment, context, few: Path, alone: Path, tmp_path: Path):
    assert together(context, few, tmp_path, environment) == [0, 0]
    assert_same(tmp_path, alone)


@pytest.mark.parametrize("stop_at", [(3, 0), (0, 4), (5, 5)], ids=["first", "other", "both"])
def test_a_signal_to_any_stops_all_and_they_go_on(stop_at, context, few: Path, alone: Path, tmp_path: Path):
    assert together(context, few, tmp_path, stop_at=stop_at) == [128 + signal.SIGTERM] * 2
    assert not list(tmp_path.glob("record-*"))
    assert together(context, few, tmp_path) == [0, 0]
    assert_same(tmp_path, alone)


def test_where_the_first_fails_the_others_end(context, few: Path, tmp_path: Path):
    """The epoch's model cannot be written, which only the first process tries."""
    (tmp_path / "best").write_text("a file where the folder should go")
    (tmp_path / "best").chmod(0)
    started = time.monotonic()
    codes = together(context, few, tmp_path)
    assert all(code != 0 for code in codes)
    assert time.monotonic() - started < 50


def test_other_settings_train_as_one_too(context, few: Path, tmp_path: Path):
    """Gathered gradients, averaged weights, both passes of R-Drop, the head for pairs."""
    changes = {"accumulate_grad_batches": 2, "average": 0.9}
    model = {"dropout": 0.0, "head": "pair"}
    arguments = {"changes": changes, "model": model, "loss": {"r_drop": 1.0}}
    process = context.Process(target=train, args=(few, tmp_path / "alone"), kwargs={**arguments, "environment": {}})
    process.start()
    process.join()
    assert process.exitcode == 0
    assert together(context, few, tmp_path / "two", **arguments) == [0, 0]
    assert_same(tmp_path / "two", tmp_path / "alone", steps=4)


def test_in_bf16_losses_agree_to_its_rounding(context, few: Path, tmp_path: Path):
    """Each process rounds the gradients of its own rows, so sums differ by bf16's 2**-9 of their parts."""
    changes = {"precision": "bf16-mixed"}
    process = context.Process(target=train, args=(few, tmp_path / "alone", changes, {}))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert together(context, few, tmp_path / "two", changes=changes) == [0, 0]
    expected = np.load(tmp_path / "alone" / "record-alone.npz")
    for number in range(PROCESSES):
        found = np.load(tmp_path / "two" / f"record-{number}.npz")
        np.testing.assert_allclose(found["steps"], expected["steps"], rtol=0, atol=IN_BF16)
        np.testing.assert_allclose(found["epochs"][:, 2:4], expected["epochs"][:, 2:4], rtol=0, atol=IN_BF16)


class TestProcessNumber:
    def test_one_process_in_a_cluster_that_started_one(self, monkeypatch):
        for name, value in (torchrun(0, 1) | {"WORLD_SIZE": "1"}).items():
            monkeypatch.setenv(name, value)
        assert process_number(devices=1, num_nodes=1) == 0
        assert not started_as_further_process()

    def test_one_process_where_torchrun_started_two(self, monkeypatch):
        for name, value in torchrun(1, 1).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=r"^torchrun started 2 processes, but one trains: set trainer=ddp"):
            process_number(devices=1, num_nodes=1)

    def test_one_process_where_slurm_started_two(self, monkeypatch):
        """Or the second would train as if alone, in the folder of DVC's own files."""
        for name, value in slurm(1, 1).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=r"^SLURM_PROCID=1 says .* set trainer=ddp.* unset SLURM_PROCID$"):
            process_number(devices=1, num_nodes=1)

    def test_slurm_without_srun(self, monkeypatch):
        """As a batch script's own process sees it."""
        for name, value in slurm(0, 1).items():
            if name != "SLURM_STEP_NUM_TASKS":
                monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=r"but srun did not start its processes: start with srun$"):
            process_number(devices=2, num_nodes=1)

    @pytest.mark.parametrize("environment", [torchrun, slurm])
    @pytest.mark.parametrize("task", [0, 1])
    def test_as_the_environment_says(self, task: int, environment, monkeypatch):
        for name, value in environment(task, 1).items():
            monkeypatch.setenv(name, value)
        assert process_number(devices=2, num_nodes=1) == task
        assert started_as_further_process() == (task > 0)

    def test_lightnings_own_launcher(self, monkeypatch):
        assert process_number(devices=2, num_nodes=2) == 0
        monkeypatch.setenv("NODE_RANK", "1")
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert process_number(devices=2, num_nodes=2) == 3

    @pytest.mark.parametrize("environment", [torchrun, slurm])
    def test_another_number_than_was_started(self, environment, monkeypatch):
        for name, value in environment(0, 1).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=r"^trainer\.devices = 4 and trainer\.num_nodes = 1 do not fit what was"):
            process_number(devices=4, num_nodes=1)

    @pytest.mark.parametrize("counts", [{"devices": 0, "num_nodes": 1}, {"devices": 1, "num_nodes": -1}])
    def test_not_a_number_of_processes(self, counts):
        with pytest.raises(UserError, match="give at least 1"):
            process_number(**counts)
