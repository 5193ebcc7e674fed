"""What the tests of the CPU's kernels share."""

from __future__ import annotations

import numpy as np
import pytest

from minires import devices


@pytest.fixture(params=["numpy", "compiled"])
def loop_kind(request):
    """Runs a test on NumPy's loops and on compiled ones, which need numba."""
    from minires.kernels.cpu import loops

    before = loops.compiled_in_use()
    loops.use_compiled(request.param == "compiled")
    if request.param == "compiled" and not loops.compiled_in_use():
        loops.use_compiled(before)
        pytest.skip("numba is not installed (extra 'fast')")
    yield request.param
    loops.use_compiled(before)


@pytest.fixture
def numpy_loops():
    """Runs a test on NumPy's loops alone."""
    from minires.kernels.cpu import loops

    before = loops.compiled_in_use()
    loops.use_compiled(False)
    yield
    loops.use_compiled(before)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    """Runs a test on so many threads."""
    devices.select_device("cpu", threads=request.param)
    yield request.param
    devices.select_device("cpu")


@pytest.fixture(autouse=True)
def memory_that_was_used_before(request):
    """NaN wherever a CPU kernel gets memory, so that a value that it forgets to write shows."""
    if not request.path.name.startswith("test_cpu_"):
        return
    from minires.kernels.cpu.buffers import pool
    from minires.kernels.cpu.threads import _workspaces

    pool.take((500_000,))[...] = np.nan  # and it is given back at once
    for workspace in _workspaces:
        for array in workspace._arrays.values():
            array[...] = np.nan
