from __future__ import annotations

import numpy as np
import pytest

from minires.functional import linear_backward, linear_forward

ARRAYS = ("y", "grad_x", "grad_weight", "grad_bias")


@pytest.mark.parametrize("array", ARRAYS)
def test_frozen_values(array):
    x = np.array([[1.0, 2.0], [3.0, -1.0]])
    weight = np.array([[1.0, 0.0], [2.0, 1.0], [0.0, -1.0]])
    y, cache = linear_forward(x, weight, np.array([0.0, 10.0, 0.5]))
    gradients = linear_backward(np.array([[1.0, 0, 2], [0, 1, 0]]), cache)
    found = dict(zip(ARRAYS, (y, *gradients), strict=True))
    expected = {
        "y": [[1, 14, -1.5], [3, 15, 1.5]],
        "grad_x": [[1, -2], [2, 1]],
        "grad_weight": [[1, 2], [3, -1], [2, 4]],
        "grad_bias": [1, 1, 2],
    }
    np.testing.assert_array_equal(found[array], expected[array], err_msg=array)


@pytest.mark.parametrize("n, c, k", [(1, 1, 1), (3, 4, 2), (2, 5, 5)])
@pytest.mark.parametrize("array", ARRAYS)
def test_equals_loops(array, n, c, k):
    rng = np.random.default_rng(0)
    x, weight, g = rng.normal(size=(n, c)), rng.normal(size=(k, c)), rng.normal(size=(n, k))
    y, cache = linear_forward(x, weight)
    found = dict(zip(ARRAYS, (y, *linear_backward(g, cache)), strict=True))
    images, inputs, outputs = range(n), range(c), range(k)
    expected = {
        "y": [[sum(x[i, m] * weight[j, m] for m in inputs) for j in outputs] for i in images],
        "grad_x": [[sum(g[i, j] * weight[j, m] for j in outputs) for m in inputs] for i in images],
        "grad_weight": [[sum(g[i, j] * x[i, m] for i in images) for m in inputs] for j in outputs],
        "grad_bias": None,  # there is no bias
    }
    if expected[array] is None:
        assert found[array] is None
    else:
        np.testing.assert_allclose(found[array], expected[array], atol=1e-13, err_msg=array)
