"""A piece of work that is captured once as a CUDA graph and then replayed.

The first calls run it op by op, so that every kernel is loaded and every block of memory is there;
the next one captures it, which only notes the launches, and from then on a call is one launch of
the graph. The arrays of the work come from a pool of its own: what a replay writes into belongs to
nobody else. Work that cannot be captured (it reads a value back, say) goes on op by op.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from minires.kernels.cuda import runtime

WARM_UP = 2
"""Calls op by op before the capture: the second finds everything as all later ones do."""


class Graph:
    """`work()` as a graph, in the context of `runtime.own_stream`.

    What `work` changes on the host is not part of a graph: `host` is a list of integers that it
    adds to, read by `read_host` and set by `write_host`; a replay adds what the capture did.
    `say` is told in one line if capturing fails.
    """

    def __init__(
        self,
        work: Callable[[], None],
        read_host: Callable[[], list[int]],
        write_host: Callable[[list[int]], None],
        say: Callable[[str], None],
    ) -> None:
        self._work, self._read_host, self._write_host, self._say = work, read_host, write_host, say
        self._pool = runtime.current().new_memory()
        self._graph: Any = None
        self._calls, self._failed = 0, False
        self._steps: list[int] = []

    def __call__(self) -> None:
        """Do the work once, in whichever way."""
        self._calls += 1
        if self._graph is None and not self._failed and self._calls > WARM_UP:
            self._capture()
            if self._graph is not None:
                self._graph.launch()
                return
        if self._graph is None:
            with runtime.current().memory(self._pool):
                self._work()
            return
        now = self._read_host()
        self._write_host([value + step for value, step in zip(now, self._steps, strict=True)])
        self._graph.launch()

    def _capture(self) -> None:
        before = self._read_host()
        current = runtime.current()
        try:
            with current.memory(self._pool):
                current.begin_capture()
                try:
                    self._work()
                except BaseException:
                    with contextlib.suppress(Exception):
                        current.end_capture()  # or the stream stays unusable
                    raise
                self._graph = current.end_capture()
        except Exception as error:
            self._failed = True
            self._write_host(before)
            first = (str(error).strip().splitlines() or [""])[0]
            self._say(f"note: no CUDA graph ({type(error).__name__}: {first}); going on op by op")
            return
        after = self._read_host()
        self._steps = [b - a for a, b in zip(before, after, strict=True)]
