"""The convolution kernel on its own against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.layouts import LAYOUTS

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


def check(shape, bias, layout=lambda v: v):
    """The kernel, with arrays in a `layout`, against the reference in float64."""
    n, c, k, h, w, side, stride, padding = shape
    rng = np.random.default_rng(shape)
    x = rng.standard_normal((n, c, h, w)).astype(np.float32)
    weight = rng.standard_normal((k, c, side, side)).astype(np.float32)
    b = rng.standard_normal(k).astype(np.float32) if bias else None

    def both(dtype, layout):
        operands = [v if v is None else v.astype(dtype) for v in (weight, b)]
        y, cache = F.conv2d_forward(layout(x.astype(dtype)), *operands, stride, padding)
        grad = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
        return y, *F.conv2d_backward(layout(grad.astype(dtype)), cache)

    truths = both(np.float64, lambda v: v)
    for name, fast, truth in zip(ARRAYS, both(np.float32, layout), truths, strict=True):
        assert (fast is None) == (truth is None), name
        if truth is not None:
            assert fast.dtype == np.float32, name
            error = np.abs(fast - truth).max() / np.abs(truth).max()
            assert error < 2e-5, f"{name} is off by {error:.1e} of its largest value"
    assert backend.fallback_counts() == {}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", CASES, ids=str)
def test_agrees_with_float64_reference(shape, bias, loop_kind):
    check(shape, bias)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", CASES[:3], ids=str)
def test_it_does_not_matter_where_the_input_and_the_gradient_lie(shape, bias, layout, loop_kind):
    check(shape, bias, layout)


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
