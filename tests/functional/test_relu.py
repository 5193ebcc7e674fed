from __future__ import annotations

import numpy as np
import pytest

from minires.functional import relu_backward, relu_forward


@pytest.mark.parametrize("array", ["y", "grad_x"])
def test_frozen_values(array):
    x = np.array([[-2.0, -0.5, 0.5, 3.0]])
    y, cache = relu_forward(x)
    grad_x = relu_backward(np.array([[1.0, 2, -3, 4]]), cache)
    found, expected = {
        "y": (y, [[0, 0, 0.5, 3]]),
        "grad_x": (grad_x, [[0, 0, -3, 4]]),
    }[array]
    np.testing.assert_array_equal(found, expected, err_msg=array)


def test_the_kink_has_gradient_zero():
    x = np.array([0.0, -0.0, np.nextafter(0.0, 1.0), np.nextafter(0.0, -1.0)])
    _, cache = relu_forward(x)
    np.testing.assert_array_equal(relu_backward(np.full(4, 7.0), cache), [0, 0, 7, 0])


def test_any_shape():
    for shape in [(), (3,), (2, 3, 4, 5), (0, 2)]:
        y, cache = relu_forward(np.ones(shape))
        assert y.shape == relu_backward(np.ones(shape), cache).shape == shape
