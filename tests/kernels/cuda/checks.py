"""The kernels of single layers against the mathematics, wherever the fixture `place` has them run.

on_cpu.py runs these checks on the CPU, test_on_gpu.py on a GPU.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernels.cuda.checking import TOLERANCE, close, draw, wide

from minires import functional as F
from minires.backend import to_host
from minires.kernels import cuda


@pytest.mark.parametrize("case", [(1, 1, 3, 5), (4, 3, 5, 7), (3, 16, 6, 5), (2, 264, 3, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(case, training, dtype, place):
    rng = np.random.default_rng(len(case) + sum(case))
    x = place(draw(rng, case, dtype) + dtype.type(3))
    grad = place(draw(rng, case, dtype, "nhwc"))
    vectors = [place(rng.uniform(0.5, 2, case[1]).astype(np.float32)) for _ in range(4)]
    exact = wide(x, *vectors)
    y, cache = cuda.batch_norm.batch_norm_forward(x, *vectors, training)
    wanted, wanted_cache = F.batch_norm_forward.reference(*exact, training)
    limit = TOLERANCE[dtype.name] * 4
    close(y, wanted, limit)
    close(vectors[2], exact[3], 1e-5)
    close(vectors[3], exact[4], 1e-5)
    got = cuda.batch_norm.batch_norm_backward(grad, cache)
    for value, expected in zip(
        got, F.batch_norm_backward.reference(*wide(grad), wanted_cache), strict=True
    ):
        close(value, expected, limit)


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (2, 5, 7, 4), (3, 16, 6, 6)])
def test_small_operations(shape, dtype, place):
    rng = np.random.default_rng(sum(shape))
    n, c, h, w = shape
    a, b = place(draw(rng, shape, dtype)), place(draw(rng, shape, dtype, "nhwc"))
    limit = TOLERANCE[dtype.name]
    close(cuda.simple.add(a, b), wide(a)[0] + wide(b)[0], limit)
    y, cache = cuda.simple.relu_forward(a)
    close(y, np.maximum(wide(a)[0], 0), 0)
    close(cuda.simple.relu_backward(b, cache), wide(b)[0] * (wide(a)[0] > 0), 0)
    y, cache = cuda.simple.shortcut_a_forward(a, c + 5, 2)
    wanted, wanted_cache = F.shortcut_a_forward.reference(*wide(a), c + 5, 2)
    close(y, wanted, 0)
    close(
        cuda.simple.shortcut_a_backward(y, cache),
        F.shortcut_a_backward.reference(wanted, wanted_cache),
        0,
    )
    y, cache = cuda.simple.global_avg_pool_forward(b)
    wanted, wanted_cache = F.global_avg_pool_forward.reference(*wide(b))
    close(y, wanted, limit)
    close(
        cuda.simple.global_avg_pool_backward(y, cache),
        F.global_avg_pool_backward.reference(*wide(y), wanted_cache),
        limit,
    )
    for size, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 1)):
        y, cache = cuda.simple.max_pool2d_forward(a, size, stride, padding)
        wanted, wanted_cache = F.max_pool2d_forward.reference(*wide(a), size, stride, padding)
        close(y, wanted, 0)
        assert np.array_equal(to_host(cache.winner), wanted_cache.winner)
        grad = place(draw(rng, y.shape, dtype))
        close(
            cuda.simple.max_pool2d_backward(grad, cache),
            F.max_pool2d_backward.reference(*wide(grad), wanted_cache),
            limit,
        )


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (2, 5, 7, 4), (3, 16, 6, 6)])
@pytest.mark.parametrize("order", ["nchw", "nhwc"])
def test_enlarging_and_flattening(shape, order, dtype, place):
    rng = np.random.default_rng(sum(shape))
    x = place(draw(rng, shape, dtype, order))
    y, cache = cuda.shapes.upsample_forward(x, 3)
    wanted, wanted_cache = F.upsample_forward.reference(*wide(x), 3)
    close(y, wanted, 0)
    grad = place(draw(rng, y.shape, dtype))
    got = cuda.shapes.upsample_backward(grad, cache)
    expected = F.upsample_backward.reference(*wide(grad), wanted_cache)
    close(got, expected, TOLERANCE[dtype.name])
    flat, cache = cuda.shapes.flatten_forward(x)
    close(flat, wide(x)[0].reshape(shape[0], -1), 0)
    assert flat.flags.c_contiguous
    got = cuda.shapes.flatten_backward(place(to_host(flat).astype(np.float32)), cache)
    close(got, wide(x)[0], 0)
    assert got.dtype == dtype


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (2, 5, 7, 4), (4, 7)])
@pytest.mark.parametrize("where", ["host", "device"])
def test_dropout_is_that_of_the_reference_bit_for_bit(shape, where, dtype, place):
    rng = np.random.default_rng(sum(shape))
    x = draw(rng, shape, dtype, "nhwc" if len(shape) == 4 else "nchw")
    step = 2**40 + 3
    given = step if where == "host" else place(np.array(step))
    y, cache = cuda.shapes.dropout_forward(place(x), 0.3, 7, 2, given)
    wanted, wanted_cache = F.dropout_forward.reference(x, 0.3, 7, 2, step)
    assert np.array_equal(to_host(y), wanted)
    assert np.array_equal(to_host(cache.factor), wanted_cache.factor)
    for kind in {dtype, np.dtype(np.float32)}:
        grad = draw(rng, shape, kind)
        got = to_host(cuda.shapes.dropout_backward(place(grad), cache))
        expected = wide(grad)[0] * wide(wanted_cache.factor)[0]
        assert got.dtype == kind
        assert np.array_equal(got, expected.astype(kind))


def test_relu_of_a_matrix(dtype, place):
    rng = np.random.default_rng(1)
    x, grad = draw(rng, (5, 7), dtype), draw(rng, (5, 7), dtype)
    y, cache = cuda.simple.relu_forward(place(x))
    close(y, np.maximum(x, 0), 0)
    close(cuda.simple.relu_backward(place(grad), cache), wide(grad)[0] * (x > 0), 0)


@pytest.mark.parametrize("shape", [(1, 2), (7, 10), (40, 100)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy(shape, smoothing, soft, dtype, place):
    rng = np.random.default_rng(sum(shape))
    logits = draw(rng, shape, dtype) * dtype.type(5)
    labels = rng.integers(0, shape[1], shape[0])
    if soft:
        labels = rng.dirichlet(np.ones(shape[1]), shape[0]).astype(np.float32)
        forward, reference = cuda.head.soft_cross_entropy_forward, F.soft_cross_entropy_forward
    else:
        forward, reference = cuda.head.cross_entropy_forward, F.cross_entropy_forward
    loss, cache = forward(place(logits), place(labels), smoothing)
    wanted, wanted_cache = reference.reference(*wide(logits), labels, smoothing)
    close(loss, wanted, 1e-5)
    close(
        cuda.head.cross_entropy_backward(cache),
        F.cross_entropy_backward.reference(wanted_cache),
        TOLERANCE[dtype.name],
    )


def test_float64_and_odd_arrays_are_declined():
    x = np.zeros((2, 3, 4, 4))
    assert cuda.simple.add(x, x) is NotImplemented
    assert cuda.conv2d.conv2d_forward(x, np.zeros((2, 3, 3, 3), np.float32)) is NotImplemented
    assert cuda.simple.global_avg_pool_forward(x) is NotImplemented
