from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from minires.functional import (
    flatten_backward,
    flatten_forward,
    upsample_backward,
    upsample_forward,
)


@pytest.mark.parametrize("shape, factor", [((2, 3, 4, 5), 2), ((1, 1, 3, 2), 3), ((2, 2, 1, 1), 7)])
@pytest.mark.parametrize("array", ["y", "grad_x"])
def test_upsampling_equals_loops(array, shape, factor):
    rng = np.random.default_rng(0)
    n, c, h, w = shape
    x, grad = rng.normal(size=shape), rng.normal(size=(n, c, h * factor, w * factor))
    y, cache = upsample_forward(x, factor)
    wanted, wanted_grad = np.zeros_like(grad), np.zeros_like(x)
    for image, channel, p, q in product(range(n), range(c), range(h * factor), range(w * factor)):
        u, v = p // factor, q // factor
        wanted[image, channel, p, q] = x[image, channel, u, v]
        wanted_grad[image, channel, u, v] += grad[image, channel, p, q]
    if array == "y":
        np.testing.assert_array_equal(y, wanted, err_msg=array)
    else:
        grad_x = upsample_backward(grad, cache)
        np.testing.assert_allclose(grad_x, wanted_grad, atol=1e-13, err_msg=array)


def test_a_sum_of_many_copies_in_half_precision_is_kept_in_float32():
    # 32 * 64 in the first row and a 1 in each of the 63 others; in float16 itself 2048 + 1 is 2048
    _, cache = upsample_forward(np.ones((1, 1, 1, 1), np.float16), 64)
    grad = np.zeros((1, 1, 64, 64), np.float16)
    grad[..., 0, :], grad[..., 1:, 0] = 32, 1
    grad_x = upsample_backward(grad, cache)
    assert grad_x.dtype == np.float16 and grad_x[0, 0, 0, 0] == np.float16(2048 + 63)


def test_flatten_goes_channel_by_channel_and_row_by_row():
    x = np.arange(12.0).reshape(1, 2, 2, 3)
    y, cache = flatten_forward(np.asfortranarray(x))
    np.testing.assert_array_equal(y, [np.arange(12.0)])
    np.testing.assert_array_equal(flatten_backward(y, cache), x)


def test_against_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is the oracle here")
    rng = np.random.default_rng(0)
    x, grad = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 12, 15))
    oracle = torch.tensor(x, requires_grad=True)
    wanted = torch.nn.Upsample(scale_factor=3, mode="nearest")(oracle)
    wanted.backward(torch.tensor(grad))
    y, cache = upsample_forward(x, 3)
    np.testing.assert_array_equal(y, wanted.detach().numpy())
    np.testing.assert_allclose(upsample_backward(grad, cache), oracle.grad.numpy(), atol=1e-13)
    np.testing.assert_array_equal(flatten_forward(x)[0], torch.flatten(torch.tensor(x), 1).numpy())
