from __future__ import annotations

import os
import signal
import threading

import pytest

from tuneledger.learn.interrupts import held_signals


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_only_noted(signum, capsys):
    before = signal.getsignal(signum)
    with held_signals() as noted:
        assert noted() is None
        os.kill(os.getpid(), signum)
        assert noted() == signum
    name = signal.Signals(signum).name
    assert capsys.readouterr().out == f"\n{name}: saving after this step; once more stops at once\n"
    assert signal.getsignal(signum) is before


@pytest.fixture
def interruptible():
    """Python's own handler, which a process started in the background with SIGINT ignored does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_second_acts_at_once(interruptible):
    with held_signals() as noted:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert noted() == signal.SIGTERM


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), held_signals():
        assert signal.getsignal(signal.SIGINT) is not before
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_signals_keep_their_meaning():
    before, seen = signal.getsignal(signal.SIGINT), []

    def hold() -> None:
        with held_signals() as noted:
            seen.append((signal.getsignal(signal.SIGINT) is before, noted()))

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert seen == [(True, None)]
