"""Loss scaling and the 16-bit copies of the weights, wherever the fixture `place` has them run.

on_cpu.py runs these checks on the CPU, test_on_gpu.py on a GPU.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernels.cuda.checking import draw

from minires.backend import to_host
from minires.functional import loss_scaling
from minires.kernels import cuda
from minires.kernels.cuda import precision
from minires.kernels.cuda import weights as copies


@pytest.mark.parametrize("accident", [None, np.inf, -np.inf, np.nan])
def test_loss_scaling(accident, place):
    values = draw(np.random.default_rng(9), (1000,)) * np.float32(1e30)
    if accident is not None:
        values[997] = accident
    for start, interval in ((2.0**16, 2000), (2.0**126, 1)):
        arrays = [values, np.array(start, np.float32), np.array(0, np.int32), np.zeros((), "f4")]
        got = [place(array.copy()) for array in arrays]
        for scaling, (v, scale, good, found) in (
            (cuda.scaling, got), (loss_scaling, arrays)
        ):  # fmt: skip
            unscale = getattr(scaling.unscale_in_place, "reference", scaling.unscale_in_place)
            update = getattr(scaling.update_scale, "reference", scaling.update_scale)
            unscale(v, scale, found)
            assert bool(found) == (accident is not None)
            update(scale, good, found, interval=interval)
        assert all(
            np.array_equal(to_host(a), b, equal_nan=True) for a, b in zip(got, arrays, strict=True)
        )
        values = draw(np.random.default_rng(9), (1000,))
        values[997] = values[997] if accident is None else accident
    for skip in (0.0, 1.0):
        count = place(np.array(41, np.int64))
        cuda.scaling.count_in_place(count, place(np.array(skip, np.float32)))
        assert int(count) == 42 - skip


WEIGHTS = [(1, 1, 1, 1), (20, 3, 3, 3), (72, 33, 3, 3), (130, 64, 1, 1), (8, 16, 5, 5)]


def test_copies_of_weights_are_those_that_each_layer_would_make(dtype, place, monkeypatch):
    if dtype == np.float32:
        pytest.skip("float32 needs no copies")
    name = next(p for p in precision.PRECISIONS.values() if p.activations == dtype.name)
    monkeypatch.setattr(precision, "current", name)
    rng = np.random.default_rng(4)
    weights = [place(draw(rng, shape, order="nhwc")) for shape in WEIGHTS]
    own = [
        (to_host(copies.forward_matrix(w, dtype, 8)), to_host(copies.backward_matrix(w, dtype)))
        for w in weights
    ]
    for factor in (1, -1):  # the second time the same memory is filled anew
        for w in weights:
            w *= np.float32(factor)
        with copies.keep_copies(weights):
            for w, (forward, backward) in zip(weights, own, strict=True):
                kept = copies.forward_matrix(w, dtype, 8), copies.backward_matrix(w, dtype)
                assert np.array_equal(to_host(kept[0]), forward * dtype.type(factor))
                assert np.array_equal(to_host(kept[1]), backward * dtype.type(factor))
                assert kept[0] is copies.forward_matrix(w, dtype, 8)
    assert copies.forward_matrix(weights[0], dtype, 8) is not kept[0]
