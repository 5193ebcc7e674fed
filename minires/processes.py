"""Processes that share a batch: each takes some of its images, and they add up what is the batch's.

Python threads run Python code one at a time. Between two long loops a thread waits for the
interpreter's lock, and each waits for the others at the end of every operation. Processes have an
interpreter each, and meet only where a value depends on the whole batch: batch norm's sums. To the
gradients they add in turn.

A `ProcessGroup` is made before `os.fork`, in memory that the forked processes go on to share. They
meet by semaphores, and what they tell each other lies in a table with a row for each.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from minires.backend import shared_zeros

_SPIN_SECONDS = 0.0005  # look again and again for so long, then sleep: being woken takes 35 us
_LOOK_SECONDS = 0.1  # how often to look whether the others still live
_TABLE_VALUES = 1 << 16  # float64, of one process: three for each channel


class ProcessGroup:
    """`size` processes that share a batch of `images` images; this one has those from `first` on.

    `rank` counts the processes from 0, the one that forked the others. `look(rank)` is called again
    and again while this process waits for that one: it may raise.
    """

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("fork")
        self.size, self.rank = size, 0
        self.images = self.first = 0
        self.look: Callable[[int], None] = lambda rank: None
        self._table = shared_zeros(2 * size * _TABLE_VALUES, np.float64).reshape(2, size, -1)
        self._page = 0
        self._posts = [[context.Semaphore(0) for _ in range(size)] for _ in range(size)]

    def meet(self) -> None:
        """Wait until every process has come here; what each wrote before, all can read."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        for rank in others:
            self._posts[self.rank][rank].release()
        for rank in others:
            self._wait_for(rank)

    def gather(self, values: np.ndarray) -> np.ndarray:
        """What every process gives, float64 arrays of one shape, stacked in the order of ranks.

        The result is good until the next but one `gather`: two pages of the table take turns.
        """
        if values.size > _TABLE_VALUES:
            raise ValueError(f"processes can tell each other {_TABLE_VALUES} values at once")
        page = self._table[self._page][:, : values.size]
        self._page = 1 - self._page
        page[self.rank] = values.ravel()
        self.meet()
        return page.reshape(self.size, *values.shape)

    def in_turn(self, action: Callable[[], None]) -> None:
        """Do `action` after the process of the rank before has done its own here.

        Only those behind wait. So between two meetings an array may have one turn: those ahead
        might be at the next while others are still at this. After they meet, all can read it.
        """
        if self.rank > 0:
            self._wait_for(self.rank - 1)
        action()
        if self.rank + 1 < self.size:
            self._posts[self.rank][self.rank + 1].release()

    def share_of(self, rank: int, images: int) -> slice:
        """The images of process `rank`, of a batch of `images`."""
        return slice(images * rank // self.size, images * (rank + 1) // self.size)

    def _wait_for(self, rank: int) -> None:
        acquire = self._posts[rank][self.rank].acquire
        end = time.perf_counter() + _SPIN_SECONDS
        while time.perf_counter() < end:
            if acquire(False):
                return
            os.sched_yield()
        while not acquire(True, _LOOK_SECONDS):
            self.look(rank)


class _Here(threading.local):
    """What this thread shares: another one may compute something else meanwhile."""

    group: ProcessGroup | None = None


_here = _Here()


@contextmanager
def sharing(group: ProcessGroup, images: int) -> Iterator[slice]:
    """Compute a share of a batch of `images` in this thread while the context lasts: the share."""
    before, _here.group = _here.group, group
    share = group.share_of(group.rank, images)
    group.images, group.first = images, share.start
    try:
        yield share
    finally:
        _here.group = before


def gathered(values: np.ndarray) -> np.ndarray:
    """The float64 `values` of all processes that share the batch, in order; (1, ...) if alone."""
    return values[None] if _here.group is None else _here.group.gather(values)


def in_turn(action: Callable[[], None]) -> None:
    """Do `action`, in the order of ranks if other processes do the same."""
    if _here.group is None:
        action()
    else:
        _here.group.in_turn(action)


def images_in_batch(images: int) -> int:
    """How many images the whole batch has, of which this process has `images`."""
    return images if _here.group is None else _here.group.images


def first_image() -> int:
    """The number in the batch of this process's first image."""
    return 0 if _here.group is None else _here.group.first
