"""Found by Hydra: the sweeper behind hydra/sweeper=search."""

from __future__ import annotations

from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SearchSweeper(Sweeper):
    """Thin on purpose: Hydra imports every plugin at each start.

    Args:
        settings: the section hydra.sweeper, see `tuneledger.sweep.sweeper.plan`.
    """

    def __init__(self, **settings: Any):
        self.settings = settings
        self.config: DictConfig | None = None
        self.context: HydraContext | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.config, self.context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from tuneledger.sweep.space import read_space
        from tuneledger.sweep.sweeper import read_plan, run

        space = read_space(arguments, self.context.config_loader)
        run(self.config, self.launcher, space, read_plan(space, self.settings))
