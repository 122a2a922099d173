"""One file per DVC stage, under the stage's name. Stages never import each other: they meet on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from tuneledger.conf import guard
from tuneledger.errors import exit_code


def run_stage(main: Callable[[], None]) -> NoReturn:
    """Run a stage's `main` behind the checkout guard and end the process with its exit code."""

    def guarded() -> None:
        guard()
        main()

    sys.exit(exit_code(guarded))
