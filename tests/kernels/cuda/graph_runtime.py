"""A runtime on the CPU that can capture: launches are noted, and run when the graph is launched.

Memory comes from pools that give a freed block out again, as CuPy's do, and a graph knows addresses
alone. So a step that relies on anything but launches (an array operation in between, a value from
the host that changes, memory that somebody else has got) gives other bits as a graph than op by op.
Arrays of this runtime cannot be read by the host: whoever tries fails.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import contextmanager

import numpy as np
from kernels.cuda.twin_runtime import _UNUSED, TwinRuntime


class DeviceArray(np.ndarray):
    """An array whose values the host must not look at: that would wait for the device."""

    def _refuse(self, *arguments):
        raise RuntimeError("the host reads a value back")

    __bool__ = __float__ = __int__ = __index__ = item = tolist = _refuse


class Pool:
    """Blocks that are given out again when nobody holds them; `fresh` counts the new ones."""

    def __init__(self):
        self.shelves, self.fresh = {}, 0

    def take(self, shape, dtype):
        size = max(1, int(np.prod(shape))) * dtype.itemsize
        length = -(-size // 512) * 512
        shelf = self.shelves.setdefault(length, [])
        for block in shelf:
            if sys.getrefcount(block) <= _UNUSED:
                break
        else:
            block = np.empty(length, np.uint8)
            shelf.append(block)
            self.fresh += 1
        values = block[:size].view(dtype)[: int(np.prod(shape))].reshape(shape)
        return values.view(DeviceArray)


class GraphTwin(TwinRuntime):
    """`TwinRuntime` with memory pools and graphs."""

    def __init__(self, can_capture=True):
        super().__init__()
        self.can_capture = can_capture
        self.pools = [Pool()]
        self.captured = None
        self.graphs = []
        self.fresh_at_capture = 0

    @property
    def fresh(self):
        """New blocks of memory in all pools so far."""
        return sum(pool.fresh for pool in self.pools)

    def empty(self, shape, dtype):
        return self.pools[-1].take(shape, dtype)

    def launch(self, source, name, grid, block, arguments, shared):
        if self.captured is None:
            self.launches.append(name)
            self.prepare(source, name, grid, block, arguments, shared)()
        else:
            run = self.prepare(source, name, grid, block, arguments, shared)
            self.captured.append((name, run))

    def product(self, a, b, out, a_t, b_t, add, tf32):
        a, b, out = (_at_address(array) for array in (a, b, out))

        def run():
            TwinRuntime.product(self, a, b, out, a_t, b_t, add, tf32)

        if self.captured is None:
            self.launches.append("product")
            run()
        else:
            self.captured.append(("product", run))

    # --- graphs -----------------------------------------------------------------------------

    def new_memory(self):
        return Pool()

    @contextmanager
    def memory(self, pool):
        self.pools.append(pool)
        try:
            yield
        finally:
            self.pools.pop()
            if pool not in self.pools:
                self.pools.insert(0, pool)  # its blocks still count

    def begin_capture(self):
        if not self.can_capture:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: not here\nmore")
        assert self.captured is None
        self.captured = []
        self.fresh_at_capture = self.fresh

    def end_capture(self):
        graph = CapturedGraph(self, self.captured)
        self.captured = None
        self.graphs.append(graph)
        graph.fresh = self.fresh - self.fresh_at_capture
        return graph


class CapturedGraph:
    """What was captured; `launch` runs it."""

    def __init__(self, runtime, captured):
        self.runtime, self.captured, self.launched = runtime, captured, 0

    def launch(self):
        self.launched += 1
        for _, run in self.captured:
            run()


def _at_address(array):
    """The same memory, but nobody is told that it is in use."""
    assert array.flags.c_contiguous
    raw = (ctypes.c_uint8 * array.nbytes).from_address(array.ctypes.data)
    return np.frombuffer(raw, np.uint8).view(array.dtype).reshape(array.shape)
