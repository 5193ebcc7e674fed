"""What the tests of the CPU's kernels share."""

from __future__ import annotations

import numpy as np
import pytest


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
