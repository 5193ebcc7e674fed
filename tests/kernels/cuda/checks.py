"""Every kernel against the mathematics, wherever the fixture `place` has it run.

on_cpu.py runs these checks on the CPU, test_on_gpu.py on a GPU. The expectation is the reference in
float64 on the very values that the kernel got, so what is left is the rounding of the type.
"""

from __future__ import annotations

import numpy as np
import pytest

from minires import functional as F
from minires.backend import options, to_host
from minires.kernels import cuda
from minires.kernels.cuda import columns

TYPES = {"float32": np.float32, "float16": np.float16}
try:
    from ml_dtypes import bfloat16

    TYPES["bfloat16"] = bfloat16
except ImportError:
    bfloat16 = None
TOLERANCE = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Of the largest value of the expectation."""


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def dtype(request):
    """Each activation type in turn."""
    if request.param not in TYPES:
        pytest.skip("ml_dtypes is not installed: no bfloat16 in NumPy")
    return np.dtype(TYPES[request.param])


def draw(rng, shape, dtype=np.float32, order="nchw"):
    """Random values; `order` is their memory order."""
    values = rng.standard_normal(shape)
    if order == "nhwc":
        values = np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return values.astype(dtype, order="K")


def close(got, expected, tolerance):
    """Compare in float64, relative to the largest expected value; NaN never passes."""
    got, expected = to_host(got).astype(np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    scale = max(abs(expected).max(), 1e-3)
    assert abs(got - expected).max() <= tolerance * scale, abs(got - expected).max() / scale


def wide(*arrays):
    """Copies in float64."""
    return [None if a is None else to_host(a).astype(np.float64) for a in arrays]


CONVOLUTIONS = [  # N, C, H, W, K, kernel, stride, padding
    (1, 1, 5, 7, 1, 3, 1, 1),
    (2, 3, 9, 6, 20, 3, 1, 1),
    (3, 16, 8, 8, 16, 3, 1, 1),
    (2, 16, 9, 7, 32, 3, 2, 1),
    (2, 24, 7, 5, 72, 3, 2, 1),
    (2, 16, 7, 7, 24, 1, 2, 0),
    (5, 8, 6, 6, 130, 1, 1, 0),
    (1, 64, 4, 4, 64, 3, 1, 1),
    (1, 136, 3, 5, 128, 3, 1, 1),
    (2, 8, 11, 11, 16, 5, 3, 2),
    (3, 8, 11, 13, 16, 3, 1, 1),  # several tiles of rows, two slabs of the weight gradient
]


@pytest.mark.parametrize("conv", ["auto", "direct"])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution(case, conv, dtype, place, monkeypatch):
    if conv == "direct" and dtype == np.float32:
        pytest.skip("float32 always goes by columns")
    monkeypatch.setattr(options, "conv", conv)
    n, c, h, w, k, size, stride, padding = case
    rng = np.random.default_rng(sum(case))
    x = place(draw(rng, (n, c, h, w), dtype, "nhwc"))
    weight = draw(rng, (k, c, size, size)) / np.float32(size * c**0.5)
    rounded = weight.astype(dtype).astype(np.float64)
    weight = place(weight)
    y, cache = cuda.conv2d.conv2d_forward(x, weight, None, stride, padding)
    wanted, wanted_cache = F.conv2d_forward.reference(*wide(x), rounded, None, stride, padding)
    limit = TOLERANCE[dtype.name]
    close(y, wanted, limit)
    grad = place(draw(rng, y.shape, dtype))
    grad_x, grad_weight, _ = cuda.conv2d.conv2d_backward(grad, cache)
    wanted_x, wanted_weight, _ = F.conv2d_backward.reference(*wide(grad), wanted_cache)
    close(grad_x, wanted_x, limit)
    close(grad_weight, wanted_weight, limit)
    assert grad_weight.dtype == np.float32 and grad_x.dtype == y.dtype == dtype


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


@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    "case", [(3, 3, 11, 13, 16, 3, 1, 1), (5, 16, 6, 6, 20, 3, 2, 1), (3, 8, 7, 7, 64, 1, 2, 0)]
)
def test_fused_unit(case, relu, shortcut, dtype, place):
    n, c, h, w, k, size, stride, padding = case
    rng = np.random.default_rng(sum(case))
    x, weight = place(draw(rng, (n, c, h, w), dtype)), draw(rng, (k, c, size, size))
    p, q = ((v + 2 * padding - size) // stride + 1 for v in (h, w))
    extra = place(draw(rng, (n, k, p, q), dtype, "nhwc")) if shortcut else None
    vectors = [place(rng.uniform(0.5, 2, k).astype(np.float32)) for _ in range(4)]
    exact = wide(x, weight.astype(dtype), *vectors, extra)
    weight = place(weight)
    how = {"stride": stride, "padding": padding, "relu": relu}
    y, cache = cuda.fused.conv_bn_relu_forward(x, weight, *vectors, extra, **how)
    wanted, wanted_cache = F.conv_bn_relu_forward.reference(*exact, **how)
    limit = TOLERANCE[dtype.name] * 4
    close(y, wanted, limit)
    close(vectors[2], exact[4], TOLERANCE[dtype.name])
    close(vectors[3], exact[5], TOLERANCE[dtype.name])
    grad = place(draw(rng, y.shape, dtype))
    got = cuda.fused.conv_bn_relu_backward(grad, cache)
    # The mask may differ where the exact output is nearer to 0 than its rounding: take ours.
    if relu:
        wanted_cache = wanted_cache._replace(relu=F.relu_forward.reference(*wide(y))[1])
    expected = F.conv_bn_relu_backward.reference(*wide(grad), wanted_cache)
    for value, exactly in zip(got, expected, strict=True):
        if exactly is None:
            assert value is None
        else:
            close(value, exactly, limit)


def test_fused_unit_with_running_statistics(dtype, place):
    rng = np.random.default_rng(11)
    x, weight = place(draw(rng, (2, 8, 7, 5), dtype)), draw(rng, (16, 8, 3, 3))
    vectors = [place(rng.uniform(0.5, 2, 16).astype(np.float32)) for _ in range(4)]
    exact = wide(x, weight.astype(dtype), *vectors)
    how = {"padding": 1, "training": False, "relu": False}
    y, cache = cuda.fused.conv_bn_relu_forward(x, place(weight), *vectors, **how)
    wanted, wanted_cache = F.conv_bn_relu_forward.reference(*exact, **how)
    close(y, wanted, TOLERANCE[dtype.name] * 4)
    assert all(np.array_equal(a, b) for a, b in zip(wide(*vectors), exact[2:], strict=True))
    grad = place(draw(rng, y.shape, dtype))
    got = cuda.fused.conv_bn_relu_backward(grad, cache)
    expected = F.conv_bn_relu_backward.reference(*wide(grad), wanted_cache)
    for value, exactly in zip(got[:4], expected[:4], strict=True):
        close(value, exactly, TOLERANCE[dtype.name] * 4)


def test_columns_in_groups_of_images(place, monkeypatch):
    monkeypatch.setattr(columns, "COLUMN_BYTES", 6 * 5 * 27 * 4 * 2)  # two images at a time
    rng = np.random.default_rng(12)
    x, weight = draw(rng, (5, 3, 6, 5)), draw(rng, (4, 3, 3, 3))
    y, cache = cuda.conv2d.conv2d_forward(place(x), place(weight), None, 1, 1)
    wanted, wanted_cache = F.conv2d_forward.reference(*wide(x, weight), None, 1, 1)
    close(y, wanted, 2e-5)
    grad = draw(rng, y.shape)
    got = cuda.conv2d.conv2d_backward(place(grad), cache)
    expected = F.conv2d_backward.reference(*wide(grad), wanted_cache)
    close(got[0], expected[0], 2e-5)
    close(got[1], expected[1], 2e-5)


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
