"""Work shared over Python threads.

NumPy and compiled loops release the interpreter's lock while they run, so two threads really
compute at once, provided each gets long pieces. BLAS runs at one thread in each of them: the
split is ours.

Callers take turns: a program that trains two networks in two threads of its own gets the right
values from both. A process made by `os.fork` starts without helper threads and makes its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minires.backend import options
from minires.kernels.cpu.buffers import Workspace


class _Worker:
    """One helper thread that waits for a function, runs it, and says so."""

    def __init__(self, index: int) -> None:
        self.index = index
        self._start, self._busy = threading.Lock(), threading.Lock()
        self._start.acquire()
        self._function: Callable[[int], None] | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._loop, name=f"minires-{index}", daemon=True).start()

    def _loop(self) -> None:
        _here.at_work = True  # whatever runs in this thread is a part of such work
        while True:
            self._start.acquire()
            try:
                self._function(self.index)
            except BaseException as error:  # `wait` hands it on
                self._error = error
            self._function = None
            self._busy.release()

    def begin(self, function: Callable[[int], None]) -> None:
        """Run the function in this thread, after what it may still be doing."""
        self._busy.acquire()
        self._function, self._error = function, None
        self._start.release()

    def wait(self) -> BaseException | None:
        """The error that ended the function, or None, once it has ended.

        An interrupt (Ctrl-C) is put off until then: the function still writes to its arrays.
        """
        error = None
        while True:
            try:
                with self._busy:
                    error, self._error = self._error or error, None
                    return error
            except BaseException as interrupt:
                error = interrupt


_workers: list[_Worker] = []
_workspaces: list[Workspace] = []
_turn = threading.Lock()
_here = threading.local()  # `at_work`: whether this thread runs a function of `parallel`


def _start_anew() -> None:
    """Forget the threads: a forked process has none of them, nor anybody who holds `_turn`."""
    global _turn
    _turn = threading.Lock()
    _workers.clear()
    _here.at_work = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def workspace(index: int) -> Workspace:
    """The scratch memory of thread `index`."""
    while len(_workspaces) <= index:
        _workspaces.append(Workspace())
    return _workspaces[index]


def parallel(function: Callable[[int], None], count: int) -> None:
    """Run `function(0)` ... `function(count - 1)`, each in a thread of its own, and wait for all.

    The caller's thread runs number 0. When all have ended, the first error is raised here. Such a
    function cannot call `parallel` itself, nor can a signal handler that runs meanwhile: they would
    wait for each other forever. They get a `RuntimeError`.
    """
    if getattr(_here, "at_work", False):
        raise RuntimeError("a CPU kernel was called while its thread was at work on another one")
    _here.at_work = True
    try:
        _take_turn(function, count)
    finally:
        _here.at_work = False


def _take_turn(function: Callable[[int], None], count: int) -> None:
    with _turn:
        while len(_workers) < count - 1:
            _workers.append(_Worker(len(_workers) + 1))
        workspace(count)  # made here, so that threads only read the list
        helpers, errors = _workers[: count - 1], []
        try:
            for helper in helpers:
                helper.begin(function)
            function(0)
        except BaseException as error:  # an interrupt too, which may leave some without work
            errors.append(error)
        errors += [error for helper in helpers if (error := helper.wait()) is not None]
    if errors:
        raise errors[0]


def copy_rows(source: np.ndarray, target: np.ndarray) -> None:
    """target[...] = source, the first axis shared by the threads."""
    parts = shards(len(source))
    parallel(lambda thread: np.copyto(target[parts[thread]], source[parts[thread]]), len(parts))


class Piece(NamedTuple):
    """A thread's share of an activation: its rows, and its values in each pixel (from `lo` on)."""

    row: int
    rows: int
    lo: int
    length: int


def pieces(h: int, n: int, channels: int) -> list[Piece]:
    """An activation of h rows and n images split for the threads.

    By rows where each thread gets equally many, because then each share is one run of memory;
    otherwise by images.
    """
    if h % max(1, options.threads) == 0:
        return [Piece(s.start, s.stop - s.start, 0, n * channels) for s in shards(h)]
    return [Piece(0, h, s.start * channels, (s.stop - s.start) * channels) for s in shards(n)]


class Share(NamedTuple):
    """A thread's share of a convolution: rows of the output, from `first` to before `last`, and
    images."""

    first: int
    last: int
    images: slice


def shards(n: int) -> list[slice]:
    """The images (or rows) 0 to n - 1 split into one slice for each thread, none empty."""
    count = max(1, min(options.threads, n))
    bounds = [n * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]


def groups(images: slice, size: int) -> list[slice]:
    """A slice of images split into as few groups of at most `size` as will do, nearly equal."""
    n = images.stop - images.start
    count = -(-n // size)
    bounds = [images.start + n * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
