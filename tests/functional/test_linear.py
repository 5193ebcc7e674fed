from __future__ import annotations

import numpy as np
import pytest

from minires.functional import linear_backward, linear_forward


def test_frozen_values():
    x = np.array([[1.0, 2.0], [3.0, -1.0]])
    weight = np.array([[1.0, 0.0], [2.0, 1.0], [0.0, -1.0]])
    y, cache = linear_forward(x, weight, np.array([0.0, 10.0, 0.5]))
    np.testing.assert_array_equal(y, [[1, 14, -1.5], [3, 15, 1.5]])
    grad_x, grad_weight, grad_bias = linear_backward(np.array([[1.0, 0, 2], [0, 1, 0]]), cache)
    np.testing.assert_array_equal(grad_x, [[1, -2], [2, 1]])
    np.testing.assert_array_equal(grad_weight, [[1, 2], [3, -1], [2, 4]])
    np.testing.assert_array_equal(grad_bias, [1, 1, 2])


@pytest.mark.parametrize("n, c, k", [(1, 1, 1), (3, 4, 2), (2, 5, 5)])
def test_equals_loops(n, c, k):
    rng = np.random.default_rng(0)
    x, weight, g = rng.normal(size=(n, c)), rng.normal(size=(k, c)), rng.normal(size=(n, k))
    y, cache = linear_forward(x, weight)
    grad_x, grad_weight, grad_bias = linear_backward(g, cache)
    for i in range(n):
        for j in range(k):
            expected = sum(x[i, m] * weight[j, m] for m in range(c))
            np.testing.assert_allclose(y[i, j], expected, atol=1e-13)
        for m in range(c):
            expected = sum(g[i, j] * weight[j, m] for j in range(k))
            np.testing.assert_allclose(grad_x[i, m], expected, atol=1e-13)
    for j in range(k):
        for m in range(c):
            expected = sum(g[i, j] * x[i, m] for i in range(n))
            np.testing.assert_allclose(grad_weight[j, m], expected, atol=1e-13)
    assert grad_bias is None
