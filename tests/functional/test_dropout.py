from __future__ import annotations

import numpy as np
import pytest

from minires.functional import dropout_backward, dropout_forward


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_and_scaling(p):
    x = np.ones((100, 10, 10, 4))
    y, _ = dropout_forward(x, p, seed=0)
    dropped = (y == 0).mean()
    assert abs(dropped - p) < 5 * (p * (1 - p) / x.size) ** 0.5
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p))
    np.testing.assert_allclose(y.mean(), 1, atol=5 * (p / (1 - p) / x.size) ** 0.5)


def test_p_zero_is_the_identity():
    x = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_array_equal(dropout_forward(x, 0.0, seed=1)[0], x)


def test_backward_uses_the_forward_mask():
    x = np.random.default_rng(0).normal(size=(5, 7))
    y, cache = dropout_forward(x, 0.4, seed=3, layer=1, step=2)
    g = np.random.default_rng(1).normal(size=x.shape)
    expected = np.where(y == 0, 0, g / 0.6)
    np.testing.assert_allclose(dropout_backward(g, cache), expected)


def test_the_mask_depends_on_seed_layer_and_step_alone():
    def mask(*coordinates):
        return dropout_forward(np.ones((8, 16)), 0.5, *coordinates)[0] > 0

    np.testing.assert_array_equal(mask(1, 2, 3), mask(1, 2, 3))
    for other in [(2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 3, 2)]:
        share = (mask(1, 2, 3) == mask(*other)).mean()
        assert 0.25 < share < 0.75, other


def test_the_mask_is_the_same_in_every_precision_and_memory_order():
    x = np.ones((2, 3, 4, 5))
    wanted = dropout_forward(x, 0.5, seed=4)[0] > 0
    for other in (x.astype(np.float32), x.astype(np.float16), np.asfortranarray(x)):
        np.testing.assert_array_equal(dropout_forward(other, 0.5, seed=4)[0] > 0, wanted)
