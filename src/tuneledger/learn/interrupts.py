"""Turning SIGINT and SIGTERM into a question a training loop can ask between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class HeldSignals:
    """Notes the first SIGINT or SIGTERM; a second one acts as it did before. Call it for the number noted, or None."""

    def __init__(self) -> None:
        self._noted: int | None = None
        # Only the main thread may install handlers; elsewhere signals keep their meaning.
        main = threading.current_thread() is threading.main_thread()
        self._before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM) if main}

    def __call__(self) -> int | None:
        return self._noted

    def install(self) -> None:
        for signum in self._before:
            signal.signal(signum, self._note)

    def restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._noted = signum
        print(f"\n{signal.Signals(signum).name}: saving after this step; once more stops at once", flush=True)
        self.restore()


@contextmanager
def held_signals() -> Iterator[HeldSignals]:
    """Within the block signals are held; their handlers come back at its end."""
    held = HeldSignals()
    held.install()
    try:
        yield held
    finally:
        held.restore()
