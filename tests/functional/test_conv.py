from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from minires.functional import conv2d_backward, conv2d_forward
from minires.functional.conv import conv_output_size


def by_six_loops(x, weight, bias, stride, padding):
    """The formula of the module, one multiplication at a time; no padded copy of x."""
    (n, c, h, w), (k, _, kh, kw) = x.shape, weight.shape
    p, q = (h + 2 * padding - kh) // stride + 1, (w + 2 * padding - kw) // stride + 1
    y = np.zeros((n, k, p, q))
    for image, filter_, row, column in product(range(n), range(k), range(p), range(q)):
        total = 0.0 if bias is None else bias[filter_]
        for channel, i, j in product(range(c), range(kh), range(kw)):
            u, v = stride * row + i - padding, stride * column + j - padding
            if 0 <= u < h and 0 <= v < w:
                total += x[image, channel, u, v] * weight[filter_, channel, i, j]
        y[image, filter_, row, column] = total
    return y


def gradients_by_six_loops(grad_output, x, weight, stride, padding):
    """Each product of the forward pass sends its share to both of its factors."""
    (n, c, h, w), (k, _, kh, kw) = x.shape, weight.shape
    p, q = grad_output.shape[2:]
    grad_x, grad_weight = np.zeros_like(x), np.zeros_like(weight)
    for image, filter_, row, column in product(range(n), range(k), range(p), range(q)):
        g = grad_output[image, filter_, row, column]
        for channel, i, j in product(range(c), range(kh), range(kw)):
            u, v = stride * row + i - padding, stride * column + j - padding
            if 0 <= u < h and 0 <= v < w:
                grad_x[image, channel, u, v] += g * weight[filter_, channel, i, j]
                grad_weight[filter_, channel, i, j] += g * x[image, channel, u, v]
    return grad_x, grad_weight


CASES = {
    "3x3": ((2, 3, 4, 5), 2, (3, 3), 1, 1),
    "stride 2, odd": ((2, 2, 5, 7), 3, (3, 3), 2, 1),
    "stride 2, even": ((1, 2, 6, 4), 2, (3, 3), 2, 1),
    "stride 2, no padding, pixels left over": ((1, 2, 6, 8), 2, (3, 3), 2, 0),
    "1x1": ((2, 3, 3, 4), 4, (1, 1), 1, 0),
    "1x1, stride 2": ((2, 3, 5, 4), 2, (1, 1), 2, 0),
    "5x5": ((1, 2, 5, 6), 2, (5, 5), 1, 2),
    "2x3, stride 3": ((1, 2, 7, 8), 2, (2, 3), 3, 1),
    "one of everything": ((1, 1, 3, 3), 1, (3, 3), 1, 1),
    "padding wider than the kernel": ((1, 1, 2, 3), 2, (3, 3), 1, 3),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_six_loops(case, with_bias):
    x_shape, filters, kernel, stride, padding = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=x_shape)
    weight = rng.normal(size=(filters, x_shape[1], *kernel))
    bias = rng.normal(size=filters) if with_bias else None

    y, cache = conv2d_forward(x, weight, bias, stride, padding)
    np.testing.assert_allclose(y, by_six_loops(x, weight, bias, stride, padding), atol=1e-12)

    grad_output = rng.normal(size=y.shape)
    grad_x, grad_weight, grad_bias = conv2d_backward(grad_output, cache)
    expected_x, expected_weight = gradients_by_six_loops(grad_output, x, weight, stride, padding)
    np.testing.assert_allclose(grad_x, expected_x, atol=1e-12)
    np.testing.assert_allclose(grad_weight, expected_weight, atol=1e-12)
    if with_bias:
        sums = [sum(grad_output[:, k].ravel().tolist()) for k in range(filters)]
        np.testing.assert_allclose(grad_bias, sums, atol=1e-12)
    else:
        assert grad_bias is None


def test_frozen_values():
    # a 2x2 filter slides over a 3x3 image; the filter is not flipped
    x = np.arange(9.0).reshape(1, 1, 3, 3)
    weight = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    y, cache = conv2d_forward(x, weight, np.array([0.5]))
    # 0*1 + 1*2 + 3*3 + 4*4 = 27, and each step to the right adds 10, each step down 30
    np.testing.assert_array_equal(y[0, 0], [[27.5, 37.5], [57.5, 67.5]])
    grad_x, grad_weight, grad_bias = conv2d_backward(np.array([[[[1.0, 0.0], [0.0, 2.0]]]]), cache)
    np.testing.assert_array_equal(grad_x[0, 0], [[1, 2, 0], [3, 6, 4], [0, 6, 8]])
    np.testing.assert_array_equal(grad_weight[0, 0], [[8, 11], [17, 20]])
    np.testing.assert_array_equal(grad_bias, [3])


def test_grad_x_can_be_left_out():
    rng = np.random.default_rng(1)
    y, cache = conv2d_forward(rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(2, 3, 3, 3)))
    grad_output = rng.normal(size=y.shape)
    _, wanted, _ = conv2d_backward(grad_output, cache)
    grad_x, grad_weight, _ = conv2d_backward(grad_output, cache, need_grad_x=False)
    assert grad_x is None
    np.testing.assert_array_equal(grad_weight, wanted)


@pytest.mark.parametrize("size", [5, 6, 32])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_output_size_counts_the_windows(size, kernel, stride, padding):
    starts = range(-padding, size + padding, stride)
    windows = [start for start in starts if start + kernel <= size + padding]
    assert conv_output_size(size, kernel, stride, padding) == len(windows)
