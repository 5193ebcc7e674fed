from __future__ import annotations

import numpy as np
import pytest

from minires.functional import add, shortcut_a_backward, shortcut_a_forward


@pytest.mark.parametrize(
    "shape, channels, stride, first",
    [
        ((2, 2, 4, 6), 4, 2, 1),
        ((1, 3, 5, 7), 6, 2, 1),  # three new channels: one before, two after
        ((2, 16, 4, 4), 32, 2, 8),
        ((1, 2, 3, 3), 2, 1, 0),
    ],
)
@pytest.mark.parametrize("array", ["y", "grad_x"])
def test_pixels_and_channels(array, shape, channels, stride, first):
    n, c, h, w = shape
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    y, cache = shortcut_a_forward(x, channels, stride)
    assert y.shape == (n, channels, -(-h // stride), -(-w // stride))
    g = rng.normal(size=y.shape)
    grad_x = shortcut_a_backward(g, cache)
    expected, expected_grad = np.zeros_like(y), np.zeros_like(x)
    for channel in range(c):
        for row in range(y.shape[2]):
            for column in range(y.shape[3]):
                pixel = (slice(None), channel, stride * row, stride * column)
                place = (slice(None), first + channel, row, column)
                expected[place] = x[pixel]
                expected_grad[pixel] = g[place]
    found, wanted = {"y": (y, expected), "grad_x": (grad_x, expected_grad)}[array]
    np.testing.assert_array_equal(found, wanted, err_msg=array)


def test_add_leaves_its_terms_alone():
    a, b = np.ones((2, 3)), np.full((2, 3), 2.0)
    np.testing.assert_array_equal(add(a, b), np.full((2, 3), 3.0))
    assert (a == 1).all() and (b == 2).all()
