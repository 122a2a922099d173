"""Which of a training's processes this one is, wherever they were started."""

from __future__ import annotations

from tuneledger.errors import UserError


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
            try:
                environment = kind()
                environment.validate_settings(devices, num_nodes)
            except (RuntimeError, ValueError) as error:
                raise UserError(
                    f"trainer.devices = {devices} and trainer.num_nodes = {num_nodes} do not fit what was started: "
                    f"{' '.join(str(error).split())}"
                ) from error
            return environment.global_rank()
    environment = LightningEnvironment()
    return environment.node_rank() * devices + environment.local_rank()
