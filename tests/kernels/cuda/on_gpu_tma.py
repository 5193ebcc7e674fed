"""The rung of TMA on a GPU, against the rung below it.

test_on_gpu.py runs this in a process of its own with a time limit: a mistake there may be a barrier
that waits for ever.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernels.cuda.checking import TOLERANCE, TYPES, close

from minires.backend import to_device, to_host
from minires.devices import select_device
from minires.kernels.cuda import runtime, tma
from minires.kernels.cuda.hopper import Hopper
from minires.kernels.cuda.implicit import Implicit

CASES = [  # N, channels, height, width, K, kernel, stride, padding
    (1, 64, 4, 4, 64, 1, 1, 0),  # one copy of each operand, most of it zeros
    (32, 64, 8, 8, 64, 1, 1, 0),
    (32, 64, 32, 32, 64, 3, 1, 1),
    (32, 64, 32, 32, 128, 3, 2, 1),
    (32, 64, 32, 32, 128, 1, 2, 0),
    (32, 256, 8, 8, 256, 3, 1, 1),
    (512, 512, 4, 4, 512, 3, 1, 1),
    (3, 64, 9, 8, 64, 3, 2, 1),  # corners that differ down and across: which comes first?
    (3, 64, 7, 5, 72, 3, 2, 1),
    (2, 64, 8, 6, 64, 5, 1, 2),
]


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in TYPES if name != "float32"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_rung_of_tma_gives_the_bits_of_the_rung_below(case, name):
    device = select_device("gpu", precision="fp16" if name == "float16" else "bf16")
    assert tma.is_here(), "no GPU of compute capability 9.0, or a driver without tensor maps"
    n, c, h, w, k, size, stride, padding = case
    rng = np.random.default_rng(sum(case))

    def place(shape, dtype=TYPES[name]):
        return to_device(rng.standard_normal(shape).astype(dtype), device)

    x = place((n, h, w, c))
    weight = to_device(np.float32(rng.standard_normal((k, c, size, size)) / size / c**0.5), device)
    upper, lower, lowest = (rung(x.shape, weight, stride, padding)
                            for rung in (tma.Tma, Hopper, Implicit))  # fmt: skip
    grad = place((n, upper.p, upper.q, k))
    with runtime.current().own_stream():
        results = [
            (*rung.forward(x, weight, True), rung.input_gradient(grad, weight),
             rung.weight_gradient(x, grad))
            for rung in (upper, lower, lowest)
        ]  # fmt: skip
    for got, below in zip(*results[:2], strict=True):
        assert np.array_equal(to_host(got), to_host(below))
    for got, judge in zip(results[0][::2], results[2][::2], strict=True):
        close(got, to_host(judge).astype(np.float64), TOLERANCE[name])
    close(results[0][3], to_host(results[2][3]), TOLERANCE[name])
