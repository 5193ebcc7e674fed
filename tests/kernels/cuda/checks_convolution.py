"""Convolutions and the fused unit against the reference, wherever `place` has them run.

on_cpu_convolution.py runs these checks on the CPU, test_on_gpu.py on a GPU.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernels.cuda.checking import TOLERANCE, close, draw, wide

from minires import functional as F
from minires.backend import options
from minires.kernels import cuda
from minires.kernels.cuda import columns

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
