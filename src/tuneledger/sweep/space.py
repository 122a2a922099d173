"""What a sweep ranges over, read from its overrides."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from tuneledger.errors import UserError


@dataclass(frozen=True)
class Interval:
    """Numbers from low to high, both included; drawn evenly on a log scale if `log`."""

    low: float
    high: float
    log: bool
    whole: bool


@dataclass(frozen=True)
class Space:
    """A sweep's overrides, parted.

    Args:
        fixed: overrides that all trials share, as typed.
        choices: swept key -> its values, as text.
        intervals: swept key -> numbers to draw from.
    """

    fixed: list[str]
    choices: dict[str, list[str]]
    intervals: dict[str, Interval]

    @property
    def swept(self) -> list[str]:
        """The swept keys."""
        return [*self.choices, *self.intervals]

    def size(self) -> float:
        """How many different trials there are; infinity with an interval of broken numbers."""
        whole = [i.high - i.low + 1 if i.whole else math.inf for i in self.intervals.values()]
        return math.prod([*(len(set(values)) for values in self.choices.values()), *whole])

    def grid(self) -> list[dict[str, str]]:
        """Every combination of the choices, the last key running fastest, as Hydra's own sweeper orders them.

        Raises:
            UserError: an interval has no list of values.
        """
        if self.intervals:
            raise UserError(
                f"{next(iter(self.intervals))} is an interval, which has no list of values: use hydra/sweeper=search, "
                "with hydra.sweeper.sampler=tpe or random"
            )
        return [dict(zip(self.choices, values, strict=True)) for values in itertools.product(*self.choices.values())]


def read_space(arguments: list[str], config_loader: Any) -> Space:
    """Parse overrides in Hydra's grammar: choices, lists, ranges, globs and intervals.

    Args:
        arguments: as typed, such as "optim.lr=tag(log,interval(1e-5,1e-3))"; of two for the same key the last counts.
        config_loader: Hydra's, which knows the options that a glob stands for.

    Raises:
        UserError: an interval whose ends cannot be drawn between, a shuffled sweep, a range on a log scale, or a sweep
            without a value.
    """
    last = {
        override.get_key_element(): override
        for override in OverridesParser.create(config_loader=config_loader).parse_overrides(arguments)
    }
    swept = {key: override for key, override in last.items() if override.is_sweep_override()}
    intervals = {key: override for key, override in swept.items() if isinstance(override.value(), IntervalSweep)}
    return Space(
        fixed=[override.input_line for key, override in last.items() if key not in swept],
        choices={key: _choices(key, override) for key, override in swept.items() if key not in intervals},
        intervals={key: _interval(key, override.value()) for key, override in intervals.items()},
    )


def _choices(key: str, override: Override) -> list[str]:
    value = override.value()
    if isinstance(value, RangeSweep) and "log" in value.tags:
        raise UserError(f"{key}: a range has fixed steps, so the tag log means nothing; use interval")
    if isinstance(value, ChoiceSweep | RangeSweep) and value.shuffle:
        raise UserError(f"{key}: shuffle() gives another sweep each time; leave it out")
    try:
        values = list(override.sweep_string_iterator())
    except ValueError as error:  # of a range with a step of 0
        raise UserError(f"{override.input_line}: {error}") from error
    if not values:
        raise UserError(f"{override.input_line}: there is no value in it")
    return values


def _interval(key: str, sweep: IntervalSweep) -> Interval:
    low, high = sweep.start, sweep.end
    log = "log" in sweep.tags
    if not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{key}=interval({low},{high}): give two numbers, the smaller one first")
    if log and low <= 0:
        raise UserError(f"{key}=interval({low},{high}): a log scale needs numbers above 0")
    return Interval(low, high, log, isinstance(low, int) and isinstance(high, int))
