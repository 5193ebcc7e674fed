"""Max pooling in memory order (H, W, N, C) against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from minires import backend, devices
from minires import functional as F
from minires.kernels.cpu.buffers import as_hwnc, pool


@pytest.fixture(autouse=True, params=[1, 2, 3])
def threads(request):
    devices.select_device("cpu", threads=request.param)
    yield
    devices.select_device("cpu")


def in_hwnc(shape, seed=0, ties=False):
    """Random (N, C, H, W) float32 in memory order (H, W, N, C)."""
    n, c, h, w = shape
    rng = np.random.default_rng(seed)
    values = rng.integers(-2, 3, (h, w, n, c)) if ties else rng.standard_normal((h, w, n, c))
    return values.astype(np.float32).transpose(2, 3, 0, 1)


CASES = [
    ((3, 8, 8, 6), 2, 2, 0),
    ((2, 3, 5, 7), 2, 2, 0),
    ((1, 1, 4, 4), 4, 4, 0),
    ((5, 4, 9, 8), 3, 2, 1),
    ((2, 3, 6, 5), 3, 1, 1),
    ((2, 2, 8, 7), 2, 3, 0),
    ((2, 3, 6, 9), 2, 3, 0),  # pixels between the windows, and none left over
    ((2, 3, 9, 8), 5, 2, 2),
    ((1, 2, 1, 1), 1, 1, 0),
]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape, kernel, stride, padding", CASES)
def test_both_passes_equal_the_reference(shape, kernel, stride, padding, ties):
    x = in_hwnc(shape, ties=ties)
    backend.reset_fallback_counts()
    y, cache = F.max_pool2d_forward(x, kernel, stride, padding)
    wanted, wanted_cache = F.max_pool2d_forward.reference(x, kernel, stride, padding)
    np.testing.assert_array_equal(y, wanted, err_msg="y")
    np.testing.assert_array_equal(cache.winner, wanted_cache.winner, err_msg="winner")
    grad = in_hwnc(y.shape, 1)
    found = F.max_pool2d_backward(grad, cache)
    wanted = F.max_pool2d_backward.reference(grad, wanted_cache)
    # sums in another order where windows meet
    np.testing.assert_allclose(found, wanted, atol=1e-6, err_msg="grad_x")
    assert not backend.fallback_counts()
    for array in (y, found):
        assert array.dtype == np.float32 and as_hwnc(array) is not None, "would be copied"


def test_halves_mix_with_the_reference():
    x, grad = in_hwnc((2, 3, 6, 4)), in_hwnc((2, 3, 3, 2), 1)
    _, fast = F.max_pool2d_forward(x, 2, 2)
    _, plain = F.max_pool2d_forward.reference(x, 2, 2)
    wanted = F.max_pool2d_backward.reference(grad, plain)
    np.testing.assert_array_equal(F.max_pool2d_backward(grad, plain), wanted)
    np.testing.assert_array_equal(F.max_pool2d_backward.reference(grad, fast), wanted)


def test_a_gradient_in_another_memory_order_is_taken():
    x = in_hwnc((2, 3, 6, 4))
    _, cache = F.max_pool2d_forward(x, 2, 2)
    grad = in_hwnc((2, 3, 3, 2), 1)
    np.testing.assert_array_equal(
        F.max_pool2d_backward(np.ascontiguousarray(grad), cache), F.max_pool2d_backward(grad, cache)
    )


def test_the_output_lies_in_a_border_for_the_next_convolution():
    y, _ = F.max_pool2d_forward(in_hwnc((2, 8, 8, 8)), 2, 2)
    assert pool.bordered_around(as_hwnc(y)) is not None


def test_pieces_of_larger_arrays_and_used_buffers():
    whole = in_hwnc((2, 3, 8, 8))
    x = whole[:, :, 1:7, 1:7]
    for seed in (1, 2):  # the second time the pool hands out what the first has written
        y, cache = F.max_pool2d_forward(x, 3, 2, 1)
        wanted, wanted_cache = F.max_pool2d_forward.reference(x, 3, 2, 1)
        np.testing.assert_array_equal(y, wanted)
        grad = in_hwnc(y.shape, seed)
        found = F.max_pool2d_backward(grad, cache)
        wanted = F.max_pool2d_backward.reference(grad, wanted_cache)
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        del y, cache, found


def test_arrays_in_another_memory_order_are_left_to_the_reference():
    x = np.ascontiguousarray(in_hwnc((2, 3, 4, 4)))
    backend.reset_fallback_counts()
    F.max_pool2d_forward(x, 2, 2)
    assert backend.fallback_counts() == {"max_pool2d_forward": 1}
