from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from minires.functional import (
    global_avg_pool_backward,
    global_avg_pool_forward,
    max_pool2d_backward,
    max_pool2d_forward,
)


def max_pool_by_loops(x, kernel, stride, padding, grad_output=None):
    """The largest pixel of each window, and where it is; ties go to the first in row order."""
    n, c, h, w = x.shape
    p, q = ((size + 2 * padding - kernel) // stride + 1 for size in (h, w))
    y, grad_x = np.zeros((n, c, p, q)), np.zeros_like(x)
    for image, channel, row, column in product(range(n), range(c), range(p), range(q)):
        best, place = -np.inf, None
        for i, j in product(range(kernel), range(kernel)):
            u, v = stride * row + i - padding, stride * column + j - padding
            if 0 <= u < h and 0 <= v < w and x[image, channel, u, v] > best:
                best, place = x[image, channel, u, v], (u, v)
        y[image, channel, row, column] = best
        if grad_output is not None:
            grad_x[image, channel][place] += grad_output[image, channel, row, column]
    return y, grad_x


CASES = [
    ((2, 3, 4, 6), 2, 2, 0),
    ((2, 2, 5, 7), 2, 2, 0),
    ((1, 2, 5, 4), 3, 1, 0),
    ((2, 1, 5, 6), 3, 2, 1),
    ((1, 1, 7, 8), 2, 3, 0),
    ((1, 1, 1, 1), 1, 1, 0),
]


@pytest.mark.parametrize("shape, kernel, stride, padding", CASES)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("array", ["y", "grad_x"])
def test_max_pool_equals_loops(array, shape, kernel, stride, padding, ties):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, shape).astype(float) if ties else rng.normal(size=shape)
    y, cache = max_pool2d_forward(x, kernel, stride, padding)
    if array == "y":
        expected, _ = max_pool_by_loops(x, kernel, stride, padding)
        np.testing.assert_array_equal(y, expected, err_msg=array)
        return
    grad_output = rng.normal(size=y.shape)
    grad_x = max_pool2d_backward(grad_output, cache)
    _, expected = max_pool_by_loops(x, kernel, stride, padding, grad_output)
    np.testing.assert_allclose(grad_x, expected, atol=1e-14, err_msg=array)


def test_the_first_of_equal_values_gets_the_gradient():
    _, cache = max_pool2d_forward(np.ones((1, 1, 2, 2)), 2, 2)
    grad_x = max_pool2d_backward(np.full((1, 1, 1, 1), 5.0), cache)
    np.testing.assert_array_equal(grad_x[0, 0], [[5, 0], [0, 0]])


def test_padding_never_wins():
    x = np.full((1, 1, 2, 2), -7.0)
    y, cache = max_pool2d_forward(x, 3, 2, 1)
    np.testing.assert_array_equal(y, [[[[-7.0]]]])
    assert max_pool2d_backward(np.ones((1, 1, 1, 1)), cache).sum() == 1


def test_a_pixel_that_wins_several_windows_gets_the_sum():
    x = np.zeros((1, 1, 3, 3))
    x[0, 0, 1, 1] = 1
    _, cache = max_pool2d_forward(x, 2, 1)
    grad_x = max_pool2d_backward(np.array([[[[1.0, 2], [3, 4]]]]), cache)
    assert grad_x[0, 0, 1, 1] == 10 and np.count_nonzero(grad_x) == 1


def test_global_average_is_the_mean_of_each_channel():
    y, _ = global_avg_pool_forward(np.arange(12.0).reshape(1, 2, 2, 3))
    np.testing.assert_allclose(y, [[2.5, 8.5]])


def test_every_pixel_gets_its_share_of_the_gradient_of_the_average():
    _, cache = global_avg_pool_forward(np.arange(12.0).reshape(1, 2, 2, 3))
    grad_x = global_avg_pool_backward(np.array([[6.0, 12.0]]), cache)
    np.testing.assert_allclose(grad_x[0, 0], np.full((2, 3), 1.0))
    np.testing.assert_allclose(grad_x[0, 1], np.full((2, 3), 2.0))


def test_global_average_of_half_precision_does_not_overflow():
    y, _ = global_avg_pool_forward(np.full((1, 1, 64, 64), 100.0, np.float16))
    assert y.dtype == np.float16 and y[0, 0] == 100
