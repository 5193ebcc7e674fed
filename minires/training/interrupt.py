"""Ctrl-C and SIGTERM while training: the first asks politely, the second ends at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from minires.errors import Interrupted

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class InterruptGuard:
    """A context in which SIGINT and SIGTERM only set `requested`; the loop asks between steps.

    The handlers that were there before come back when the first signal arrives (so a second one
    ends the program at once) and when the context ends. Outside the main thread, where Python
    allows no handlers, the context does nothing.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self.signal is not None

    def error(self, message: str) -> Interrupted:
        """The exception that ends the training: exit code 130 for SIGINT, 143 for SIGTERM."""
        assert self.signal is not None
        return Interrupted(f"{NAMES[self.signal]}: {message}", exit_code=128 + self.signal)

    def __enter__(self) -> InterruptGuard:
        if threading.current_thread() is threading.main_thread():
            for number in NAMES:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
