"""The convolution kernel on its own against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest

from minires import backend, devices
from minires import functional as F

ARRAYS = ("y", "grad_x", "grad_weight", "grad_bias")

#        N  C   K   H  W  kernel stride padding
CASES = [
    (3, 16, 24, 8, 12, 3, 1, 1),
    (1, 8, 8, 4, 4, 3, 1, 1),
    (2, 3, 5, 7, 9, 3, 2, 1),
    (5, 4, 6, 6, 5, 1, 1, 0),
    (2, 1, 3, 9, 8, 5, 2, 2),
]


@pytest.fixture(autouse=True)
def kernels():
    devices.select_device("cpu", threads=2)
    backend.reset_fallback_counts()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", CASES, ids=str)
def test_agrees_with_float64_reference(shape, bias, loop_kind):
    n, c, k, h, w, side, stride, padding = shape
    rng = np.random.default_rng(shape)
    x = rng.standard_normal((n, c, h, w)).astype(np.float32)
    weight = rng.standard_normal((k, c, side, side)).astype(np.float32)
    b = rng.standard_normal(k).astype(np.float32) if bias else None

    def both(dtype):
        operands = [v if v is None else v.astype(dtype) for v in (x, weight, b)]
        y, cache = F.conv2d_forward(*operands, stride, padding)
        grad = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
        return y, *F.conv2d_backward(grad.astype(dtype), cache)

    for name, fast, truth in zip(ARRAYS, both(np.float32), both(np.float64), strict=True):
        assert (fast is None) == (truth is None), name
        if truth is not None:
            assert fast.dtype == np.float32, name
            error = np.abs(fast - truth).max() / np.abs(truth).max()
            assert error < 2e-5, f"{name} is off by {error:.1e} of its largest value"
    assert backend.fallback_counts() == {}


@pytest.mark.parametrize("shape", CASES, ids=str)
def test_without_the_gradient_of_the_pixels_that_of_the_filters_is_the_same(shape, loop_kind):
    n, c, k, h, w, side, stride, padding = shape
    rng = np.random.default_rng(shape)
    x = rng.standard_normal((n, c, h, w)).astype(np.float32)
    weight = rng.standard_normal((k, c, side, side)).astype(np.float32)
    y, cache = F.conv2d_forward(x, weight, None, stride, padding)
    _, expected, _ = F.conv2d_backward(y, cache)
    grad_x, grad_weight, _ = F.conv2d_backward(y, cache, need_grad_x=False)
    assert grad_x is None
    np.testing.assert_array_equal(grad_weight, expected)


def test_declines_what_it_cannot_take():
    x, weight = np.ones((2, 3, 6, 6), np.float32), np.ones((4, 3, 3, 5), np.float32)
    y, _ = F.conv2d_forward(x, weight, None, 1, 0)
    assert y.shape == (2, 4, 4, 2)
    assert backend.fallback_counts() == {"conv2d_forward": 1}
