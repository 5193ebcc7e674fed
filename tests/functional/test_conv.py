from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest

from minires.functional import conv2d_backward, conv2d_forward
from minires.functional.conv import conv_output_size

ARRAYS = ("y", "grad_x", "grad_weight", "grad_bias")


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


@cache
def found_and_expected(case, with_bias):
    """Each array of a case, by name: what the module says and what the loops say."""
    x_shape, filters, kernel, stride, padding = CASES[case]
    rng = np.random.default_rng(0)
    x = rng.normal(size=x_shape)
    weight = rng.normal(size=(filters, x_shape[1], *kernel))
    bias = rng.normal(size=filters) if with_bias else None
    y, conv = conv2d_forward(x, weight, bias, stride, padding)
    expected_y = by_six_loops(x, weight, bias, stride, padding)
    grad_output = rng.normal(size=expected_y.shape)
    gradients = conv2d_backward(grad_output, conv)
    grad_x, grad_weight = gradients_by_six_loops(grad_output, x, weight, stride, padding)
    sums = [sum(grad_output[:, k].ravel().tolist()) for k in range(filters)]
    expected = (expected_y, grad_x, grad_weight, np.array(sums) if with_bias else None)
    return dict(zip(ARRAYS, zip((y, *gradients), expected, strict=True), strict=True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("array", ARRAYS)
def test_equals_six_loops(array, with_bias, case):
    found, expected = found_and_expected(case, with_bias)[array]
    if expected is None:
        assert found is None
    else:
        np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=array)


@pytest.mark.parametrize("array", ARRAYS)
def test_frozen_values(array):
    # a 2x2 filter slides over a 3x3 image; the filter is not flipped
    x = np.arange(9.0).reshape(1, 1, 3, 3)
    weight = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    y, conv = conv2d_forward(x, weight, np.array([0.5]))
    gradients = conv2d_backward(np.array([[[[1.0, 0.0], [0.0, 2.0]]]]), conv)
    found = dict(zip(ARRAYS, (y, *gradients), strict=True))
    expected = {
        # 0*1 + 1*2 + 3*3 + 4*4 = 27, and each step to the right adds 10, each step down 30
        "y": [[[[27.5, 37.5], [57.5, 67.5]]]],
        "grad_x": [[[[1, 2, 0], [3, 6, 4], [0, 6, 8]]]],
        "grad_weight": [[[[8, 11], [17, 20]]]],
        "grad_bias": [3],
    }
    np.testing.assert_array_equal(found[array], expected[array], err_msg=array)


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
