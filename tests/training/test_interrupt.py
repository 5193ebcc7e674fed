"""Signals: the first only asks, the second finds the old handler, the context cleans up."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from minires.training.interrupt import InterruptGuard


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_asks_and_restores_the_old_handler(number, code):
    called = []
    before = signal.signal(number, lambda *_: called.append(number))
    try:
        with InterruptGuard() as guard:
            assert not guard.requested
            os.kill(os.getpid(), number)
            assert guard.requested
            assert called == []
            os.kill(os.getpid(), number)
            assert called == [number]
        assert guard.error("saved").exit_code == code
    finally:
        signal.signal(number, before)


def test_handlers_come_back_when_nothing_happened():
    before = signal.getsignal(signal.SIGINT)
    with InterruptGuard():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_other_threads_do_without():
    seen = []

    def work():
        with InterruptGuard() as guard:
            seen.append(guard.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
