from __future__ import annotations

import os
import signal
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tuneledger.errors import Diverged, Interrupted, UserError
from tuneledger.learn.checkpoints import (
    AtomicCheckpointIO,
    Checkpoints,
    StepSeeds,
    exclusive,
    resumable,
)
from tuneledger.learn.interrupts import HeldSignals

GOOD = {"state_dict": {"weight": torch.arange(20_000.0)}, "global_step": 7}
MODULE = SimpleNamespace(state_dict=lambda: GOOD["state_dict"])


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run's checkpoint folder with a good last.ckpt and best/."""
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "mlflow_run_id").write_text("abc")
    AtomicCheckpointIO().save_checkpoint(GOOD, tmp_path / "last.ckpt")
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestResumable:
    def test_a_good_checkpoint(self, folder, capsys):
        assert resumable(folder, MODULE) == folder / "last.ckpt"
        assert (folder / "best").exists()
        assert capsys.readouterr().out == ""

    def test_none(self, tmp_path, capsys):
        assert resumable(tmp_path, MODULE) is None
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        "damage",
        ["cut", "empty", "text", "flipped weight", "flipped record"],
    )
    def test_a_damaged_one_is_told_and_deleted_with_the_model_beside_it(self, folder, capsys, damage):
        file = folder / "last.ckpt"
        data = bytearray(file.read_bytes())
        if damage == "cut":
            data = data[: len(data) // 2]
        elif damage == "empty":
            data = b""
        elif damage == "text":
            data = b"not a checkpoint"
        else:
            place = len(data) // 2 if damage == "flipped weight" else bytes(data).index(b"global_step")
            data[place] ^= 0x10
        file.write_bytes(data)
        assert resumable(folder, MODULE) is None
        said = capsys.readouterr().out
        assert said.startswith(f"checkpoint {file} is damaged (")
        assert said.endswith("): starting over\n")
        assert said.count("\n") == 1
        assert names(folder) == ["mlflow_run_id"]

    def test_one_of_another_shape_is_told_and_deleted_with_the_model_beside_it(self, folder, capsys):
        weights = {name: torch.cat([value, value]) for name, value in GOOD["state_dict"].items()}
        assert resumable(folder, SimpleNamespace(state_dict=lambda: weights)) is None
        said = capsys.readouterr().out
        reason = "is of another shape (from another device or version): starting over"
        assert said == f"checkpoint {folder / 'last.ckpt'} {reason}\n"
        assert names(folder) == ["mlflow_run_id"]

    def test_a_pickle_that_runs_code_is_not_run(self, folder):
        class Evil:
            def __reduce__(self):
                return (os.mkdir, (str(folder / "evil"),))

        torch.save({"state_dict": Evil()}, folder / "last.ckpt")
        assert resumable(folder, MODULE) is None
        assert not (folder / "evil").exists()


def test_training_starts_over_after_damage_and_ends_with_the_same_weights(train, tmp_path, capsys):
    train(tmp_path / "whole", max_epochs=1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_bytes(b"PK\x03\x04damaged")
    train(tmp_path / "run", max_epochs=1)
    assert "is damaged" in capsys.readouterr().out
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def weights(folder: Path) -> bytes:
    return (folder / "best" / "model.safetensors").read_bytes()


def test_a_failed_save_keeps_the_old_checkpoint(folder, monkeypatch):
    def half(checkpoint, path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        AtomicCheckpointIO().save_checkpoint({}, folder / "last.ckpt")
    monkeypatch.undo()
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 7
    assert not list(folder.glob(".*"))


def enter_in_another_process(folder: Path) -> str:
    """What a process hears that tries to hold the folder too."""
    hear, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with exclusive(folder):
                os.write(say, b"entered")
        except UserError as error:
            os.write(say, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return os.read(hear, 4096).decode()


class TestExclusive:
    def test_makes_the_folder_and_lets_go(self, tmp_path):
        for _ in range(2):
            with exclusive(tmp_path / "a" / "run"):
                assert (tmp_path / "a" / "run").is_dir()

    def test_lets_go_after_an_error(self, tmp_path):
        with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "run"):
            raise ZeroDivisionError
        with exclusive(tmp_path / "run"):
            pass

    def test_another_process_is_refused_until_this_one_lets_go(self, tmp_path):
        message = (
            "a training with exactly this configuration and data is already running "
            f"(it holds {tmp_path / 'run'}): wait for it, or change the seed"
        )
        with exclusive(tmp_path / "run"):
            assert enter_in_another_process(tmp_path / "run") == message
        assert enter_in_another_process(tmp_path / "run") == "entered"

    def test_a_killed_process_holds_nothing(self, tmp_path):
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            with exclusive(tmp_path / "run"):
                os.write(tell, b"held")
                signal.pause()
        os.read(ready, 4)
        assert "already running" in enter_in_another_process(tmp_path / "run")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert enter_in_another_process(tmp_path / "run") == "entered"


class Module:
    """Saves the number of the epoch it was asked in."""

    def __init__(self) -> None:
        self.epoch = 0

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "epoch").write_text(str(self.epoch))


def checkpoints(folder: Path, **changes) -> Checkpoints:
    settings = {"metric": "val_loss", "mode": "min", "every_n_steps": 5, "patience": None, **changes}
    return Checkpoints(folder, until_epoch=None, stop_signal=HeldSignals(), before_save=lambda module: None, **settings)


class TestSelection:
    @pytest.mark.parametrize(
        ("metric", "mode", "values", "best"),
        [
            ("val_loss", "min", [0.5, 0.4, 0.6], 2),
            ("val_loss", "min", [0.5, 0.4, 0.4], 2),
            ("accuracy", "max", [0.5, 0.7, 0.7, 0.6], 2),
            ("f1", "max", [0.0, 0.0], 1),
            ("val_loss", "max", [0.5, 0.4, 0.6], 3),
            ("epoch", "max", [0.5, 0.4, 0.6], 3),
            ("epoch", "min", [0.5, 0.4, 0.6], 1),
        ],
    )
    def test_the_best_epoch_is_kept_the_earlier_of_two_equals(self, tmp_path, metric, mode, values, best):
        callback, module = checkpoints(tmp_path, metric=metric, mode=mode), Module()
        for epoch, value in enumerate(values):
            module.epoch = epoch + 1
            scores = {metric: torch.tensor(value)}
            trainer = SimpleNamespace(current_epoch=epoch, callback_metrics=scores, is_global_zero=True)
            callback.on_validation_end(trainer, module)
        assert callback.best_epoch == best
        assert (tmp_path / "best" / "epoch").read_text() == str(best)

    def test_survives_a_resume(self, tmp_path):
        callback, other = checkpoints(tmp_path), checkpoints(tmp_path)
        callback.best_value, callback.best_epoch = 0.25, 3
        other.load_state_dict(callback.state_dict())
        assert (other.best_value, other.best_epoch) == (0.25, 3)

    @pytest.mark.parametrize("select", [{"metric": "epoch", "mode": "max"}, {"metric": "epoch", "mode": "min"}])
    def test_best_holds_the_weights_of_the_selected_epoch(self, train, tmp_path, select):
        ends = []

        def watch(module) -> None:
            module.on_validation_epoch_end = lambda: ends.append(module.model.classifier.weight.detach().clone())

        result = train(prepare=watch, max_epochs=2, select=select)
        kept = load_file(tmp_path / "run" / "best" / "model.safetensors")["classifier.weight"]
        assert result.best_epoch == (2 if select["mode"] == "max" else 1)
        assert not torch.equal(ends[0], ends[1])
        assert torch.equal(kept, ends[result.best_epoch - 1])


class TestStepSeeds:
    @staticmethod
    def draw(seed: int, epoch: int, batch: int, process: int = 0) -> float:
        torch.rand(epoch + batch + 1)  # what was drawn before does not matter
        trainer = SimpleNamespace(current_epoch=epoch, num_training_batches=10, global_rank=process)
        StepSeeds(seed).on_train_batch_start(trainer, SimpleNamespace(device=torch.device("cpu")), None, batch)
        return torch.rand(1).item()

    def test_every_batch_of_every_epoch_seed_and_process_has_its_own(self):
        places = list(product((0, 1, 2), (0, 1), range(10), (0, 1, 2)))
        assert len({self.draw(*place) for place in places}) == len(places)

    def test_the_same_place_draws_the_same(self):
        assert self.draw(1, 1, 3) == self.draw(1, 1, 3)

    def test_large_seeds(self):
        assert self.draw(2**32 - 1, 1, 3) != self.draw(2**32 - 2, 1, 3)


def spoil(step: int):
    """From training batch `step` on, logits are not numbers."""

    def prepare(module) -> None:
        seen = {"batches": 0}

        def hook(head, inputs, logits):
            seen["batches"] += head.training
            return logits * float("nan") if head.training and seen["batches"] >= step else logits

        module.model.classifier.register_forward_hook(hook)

    return prepare


class TestLossThatIsNoNumber:
    @pytest.mark.parametrize("log_every", [1, 100])
    def test_names_step_and_rate_and_keeps_the_last_good_checkpoint(self, train, tmp_path, log_every):
        expected = (
            r"^the loss became nan at step 9 \(epoch 2, learning rate 0\.0006\): lower optim\.lr or raise "
            r"optim\.warmup$"
        )
        settings = {"checkpoint_every_n_steps": 2, "log_every_n_steps": log_every, "max_epochs": 3}
        changes = {"optim": {"warmup": 0, "lr": 0.0006, "schedule": "constant"}}
        with pytest.raises(UserError, match=expected):
            train(prepare=spoil(9), changes=changes, **settings)
        kept = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
        assert kept["global_step"] == 8
        assert all(bool(value.isfinite().all()) for value in kept["state_dict"].values())
        train(tmp_path / "whole", changes=changes, **settings)
        train(changes=changes, **settings)
        assert weights(tmp_path / "run") == weights(tmp_path / "whole")

    @pytest.mark.parametrize(("step", "saved"), [(4, 2), (6, 4), (10, 8)])
    def test_neither_are_weights_kept_that_a_step_has_spoilt_after_a_good_loss(self, train, tmp_path, step, saved):
        """Step 6 ends an epoch, which 4 and 10 do not; only the embedding of a position that no row has."""

        def prepare(module) -> None:
            seen = {"gradients": 0}

            def spoil_unused(gradient: torch.Tensor) -> torch.Tensor:
                seen["gradients"] += 1
                if seen["gradients"] == step:
                    gradient[500] = float("inf")
                return gradient

            module.model.bert.embeddings.position_embeddings.weight.register_hook(spoil_unused)

        epoch = 1 if step < 7 else 2
        expected = (
            rf"^the norm of the weights became nan at step {step} \(epoch {epoch}, learning rate 0\.001\): "
            r"lower optim\.lr or raise optim\.warmup$"
        )
        settings = {"checkpoint_every_n_steps": 2, "max_epochs": 2, "gradient_clip_val": None}
        with pytest.raises(Diverged, match=expected) as stop:
            train(prepare=prepare, changes={"optim": {"warmup": 0, "schedule": "constant"}}, **settings)
        assert (stop.value.steps, len(stop.value.epochs)) == (step, step // 6)
        kept = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
        assert kept["global_step"] == saved
        assert all(bool(value.isfinite().all()) for value in kept["state_dict"].values())
        assert (tmp_path / "run" / "best").exists() == (step > 6)

    def test_also_where_only_the_validation_loss_is_none(self, train, tmp_path):
        def prepare(module) -> None:
            def hook(head, inputs, logits):
                return logits if head.training else logits * float("nan")

            module.model.classifier.register_forward_hook(hook)

        with pytest.raises(UserError, match=r"^the validation loss became nan after step 6 \(learning rate 0\.\d+\)"):
            train(prepare=prepare, max_epochs=1)
        assert not (tmp_path / "run" / "best").exists()


def interrupt_at(step: int, signum: int):
    def on_step(row: dict[str, float]) -> None:
        if row["step"] == step:
            os.kill(os.getpid(), signum)

    return on_step


SIGNALS = pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])


class TestInterrupt:
    @SIGNALS
    @pytest.mark.parametrize(("step", "saved"), [(2, 2), (6, None), (9, 9)])
    def test_in_training_saves_at_once_and_resumes_to_the_same_weights(self, train, tmp_path, signum, step, saved):
        settings = {"max_epochs": 2, "checkpoint_every_n_steps": 100}
        before = signal.getsignal(signum)
        with pytest.raises(Interrupted) as stop:
            train(on_step=interrupt_at(step, signum), **settings)
        assert stop.value.signum == signum
        assert signal.getsignal(signum) is before
        if saved:
            assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == saved
        again = train(**settings)
        whole = train(tmp_path / "whole", **settings)
        assert weights(tmp_path / "run") == weights(tmp_path / "whole")
        assert (again.steps, again.epochs) == (whole.steps, whole.epochs)
        assert again.totals["examples"] == whole.totals["examples"]

    @pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM)])
    def test_within_an_accumulation_ends_it_first(self, train, tmp_path, signum):
        settings = {"max_epochs": 1, "checkpoint_every_n_steps": 100, "accumulate_grad_batches": 3}

        def prepare(module) -> None:
            seen = []

            def hook(model, *_):
                seen.append(1)
                if len(seen) == 2:
                    os.kill(os.getpid(), signum)

            module.model.classifier.register_forward_hook(hook)

        with pytest.raises(Interrupted) as stop:
            train(prepare=prepare, **settings)
        assert stop.value.signum == signum
        assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 1
        train(**settings)
        train(tmp_path / "whole", **settings)
        assert weights(tmp_path / "run") == weights(tmp_path / "whole")

    @SIGNALS
    def test_in_validation(self, train, tmp_path, signum):
        def prepare(module) -> None:
            module.on_validation_epoch_start = lambda: os.kill(os.getpid(), signum)

        settings = {"max_epochs": 2, "checkpoint_every_n_steps": 4}
        with pytest.raises(Interrupted) as stop:
            train(prepare=prepare, **settings)
        assert stop.value.signum == signum
        assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 4
        train(**settings)
        train(tmp_path / "whole", **settings)
        assert weights(tmp_path / "run") == weights(tmp_path / "whole")

    def test_a_resume_is_counted(self, train):
        with pytest.raises(Interrupted):
            train(on_step=interrupt_at(2, signal.SIGTERM), max_epochs=1)
        assert train(max_epochs=1).totals["resumed"] == 1
