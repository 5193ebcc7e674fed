"""The checks of convolutions on the CPU: see test_on_cpu.py."""

from __future__ import annotations

import pytest
from kernels.cuda.checking import dtype  # noqa: F401  (a fixture)
from kernels.cuda.checks_convolution import *  # noqa: F403
from kernels.cuda.twin_runtime import TwinRuntime

from minires.kernels.cuda import runtime


@pytest.fixture(autouse=True)
def place():
    """The launchers work on the CPU, so arrays stay where they are."""
    with runtime.use(TwinRuntime()):
        yield lambda array: array
