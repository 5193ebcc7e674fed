"""The updates of the optimizers against the reference in float64, wherever `place` has them run.

on_cpu.py runs these checks on the CPU, test_on_gpu.py on a GPU.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernels.cuda.checking import close, draw, wide

from minires.backend import to_host
from minires.functional import optimizer as reference
from minires.kernels import cuda

SIZE = 1003
where = pytest.mark.parametrize("where", ["host", "device"])


def flat(rng, count, place):
    """Flat arrays of one size, placed, and copies in float64."""
    arrays = [draw(rng, (SIZE,)) for _ in range(count)]
    return [place(a.copy()) for a in arrays], wide(*arrays)


def number(value, where, place, dtype=np.float32):
    """A number as a launcher takes it: from the host, or from the memory of the device."""
    return value if where == "host" else place(np.array(value, dtype))


@pytest.mark.parametrize("nesterov", [True, False])
@where
def test_sgd(nesterov, where, place):
    arrays, exact = flat(np.random.default_rng(3), 3, place)
    cuda.optimizer.sgd_step(*arrays, number(0.1, where, place),
                            number(0.9, where, place), 5e-4, nesterov)
    reference.sgd_step.reference(*exact, 0.1, 0.9, 5e-4, nesterov)
    close(arrays[0], exact[0], 1e-6)
    close(arrays[2], exact[2], 1e-6)


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("step", [1, 1000])
@where
def test_adam(decoupled, step, where, place):
    arrays, exact = flat(np.random.default_rng(step), 4, place)
    arrays[3][...], exact[3][...] = abs(arrays[3]), abs(exact[3])
    before = exact[0].copy()
    how = {"weight_decay": 5e-2, "decoupled": decoupled}
    counted = number(step, where, place, np.int64)
    beta1 = number(0.75, where, place)
    cuda.optimizer.adam_step(*arrays, number(0.1, where, place), counted, beta1, **how)
    reference.adam_step.reference(*exact, 0.1, step, 0.75, **how)
    close(to_host(arrays[0]) - before, exact[0] - before, 1e-5)
    close(arrays[2], exact[2], 1e-6)
    close(arrays[3], exact[3], 1e-6)


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@where
def test_rmsprop(centered, momentum, where, place):
    arrays, exact = flat(np.random.default_rng(5), 5, place)
    for values in (arrays, exact):
        values[2][...] = abs(values[2]) + 1
        values[3] = values[3] if centered else None
        values[4] = values[4] if momentum else None
    how = {"alpha": 0.95, "weight_decay": 5e-3}
    inertia = number(momentum, where, place)
    cuda.optimizer.rmsprop_step(*arrays, number(0.1, where, place), **how, momentum=inertia)
    reference.rmsprop_step.reference(*exact, 0.1, **how, momentum=momentum)
    for got, expected in zip(arrays, exact, strict=True):
        if expected is not None:
            close(got, expected, 2e-6)


@pytest.mark.parametrize("skip", [0.0, 1.0])
@pytest.mark.parametrize("name, count", [("sgd", 3), ("adam", 4), ("rmsprop", 5)])
def test_an_update_that_is_to_be_left_out_changes_nothing(name, count, skip, place):
    arrays, before = flat(np.random.default_rng(8), count, place)
    step = getattr(cuda.optimizer, f"{name}_step")
    step(*arrays, 0.1, *([1] if name == "adam" else []), skip=place(np.array(skip, np.float32)))
    changed = [not np.array_equal(a, b) for a, b in zip(wide(*arrays), before, strict=True)]
    assert changed == [not skip and index != 1 for index in range(count)]


@where
def test_average(where, place):
    arrays, exact = flat(np.random.default_rng(6), 2, place)
    cuda.optimizer.average_step(*arrays, number(0.99, where, place))
    reference.average_step.reference(*exact, 0.99)
    close(arrays[0], exact[0], 1e-6)
    close(arrays[1], exact[1], 0)


@pytest.mark.parametrize("size", [1, SIZE, 70_001])
@where
def test_clipping(size, where, place):
    values = draw(np.random.default_rng(size), (size,))
    norm = cuda.optimizer.squared_norm(place(values))
    assert norm.dtype == np.float64 and norm.shape == ()
    close(norm, (values.astype(np.float64) ** 2).sum(), 1e-14)
    scaled = place(values.copy())
    cuda.optimizer.scale_in_place(scaled, number(0.3, where, place))
    assert np.array_equal(to_host(scaled), values * np.float32(0.3))
    values[0] = np.nan
    clipped = place(values.copy())
    cuda.optimizer.clip_in_place(clipped, 0.5)
    assert np.array_equal(to_host(clipped), values.clip(-0.5, 0.5), equal_nan=True)
