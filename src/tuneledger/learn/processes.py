"""Which of a training's processes this one is, wherever they were started."""

from __future__ import annotations

import os

from tuneledger.errors import UserError

RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JSM_NAMESPACE_RANK")


def process_number(*, devices: int, num_nodes: int) -> int:
    """The number of this process among the `devices` x `num_nodes` of a training, from 0, the one that writes.

    As Lightning tells it from the environment: of torchrun, SLURM, LSF, MPI, or of Lightning's own launcher.

    Raises:
        UserError: not a number of processes, or another one than was started.
    """
    for key, count in {"devices": devices, "num_nodes": num_nodes}.items():
        if count < 1:
            raise UserError(f"trainer.{key} = {count}: give at least 1")
    if devices * num_nodes == 1:
        started = os.environ.get("WORLD_SIZE", "1") if "TORCHELASTIC_RUN_ID" in os.environ else "1"
        if started != "1":
            raise UserError(
                f"torchrun started {started} processes, but one trains: set trainer=ddp and trainer.devices"
            )
        if further := _further_rank():
            raise UserError(
                f"{further} says that this is one more process of several, but one trains: set trainer=ddp, "
                f"trainer.devices and trainer.num_nodes, or for a training of its own unset {further.partition('=')[0]}"
            )
        return 0
    from lightning.fabric.plugins.environments import (
        LightningEnvironment,
        LSFEnvironment,
        MPIEnvironment,
        SLURMEnvironment,
        TorchElasticEnvironment,
    )

    for kind in (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment):
        if kind.detect():
            if kind is SLURMEnvironment and "SLURM_STEP_NUM_TASKS" not in os.environ:
                # A batch script's own process looks like the first of its tasks, and would wait for the others.
                raise UserError("this is a SLURM job, but srun did not start its processes: start with srun")
            try:
                environment = kind()
                environment.validate_settings(devices, num_nodes)
                return environment.global_rank()
            except (KeyError, RuntimeError, ValueError) as error:
                raise UserError(
                    f"trainer.devices = {devices} and trainer.num_nodes = {num_nodes} do not fit what was started: "
                    f"{' '.join(str(error).split())}"
                ) from error
    environment = LightningEnvironment()
    return environment.node_rank() * devices + environment.local_rank()


def started_as_further_process() -> bool:
    """Whether torchrun, SLURM or MPI started this one beside a first; of use before settings are known."""
    return _further_rank() is not None


def _further_rank() -> str | None:
    """The variable and value that say so."""
    return next((f"{name}={os.environ[name]}" for name in RANKS if os.environ.get(name, "0") != "0"), None)
