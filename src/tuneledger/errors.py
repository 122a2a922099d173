"""The one exception for mistakes a person can mend, and the wrapper that turns it into an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake in data, configuration or surroundings; its text says what, where and what to do."""


class Diverged(UserError):
    """A training whose loss is no longer a number.

    Args:
        text: what happened and what to do.
        epochs: rows of the record until then, see `learn.history.History`.
        steps: optimizer steps taken.
    """

    def __init__(self, text: str, epochs: list[dict[str, float]], steps: int):
        super().__init__(text)
        self.epochs, self.steps = epochs, steps


class Interrupted(Exception):
    """A run ended early by a signal.

    Args:
        signum: the signal received; the process ends with 128 + signum.
        saved: False where it was not waited for that, as at a second signal.
    """

    def __init__(self, signum: int, saved: bool = True):
        super().__init__(f"interrupted by signal {signum}")
        self.signum, self.saved = signum, saved


def exit_code(main: Callable[[], object]) -> int:
    """Run `main` and map what happened to an exit code: 0, 2 for a user's mistake, 128 + signal."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        return 128 + stop.signum
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        # A missing file, a full or a read-only disk is the user's to mend.
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror or str(error)
        print(f"error: {' '.join(text.split())}", file=sys.stderr)
        return 2
    return 0
