from __future__ import annotations

import numpy as np
import pytest

from minires.functional.random import INIT
from minires.nn import Initializer


@pytest.mark.parametrize("kernel", [(3, 3), (1, 7)])
def test_he_normal_has_variance_two_over_fan_in(kernel):
    weight = Initializer(0).he_normal((64, 32, *kernel))
    assert weight.dtype == np.float32
    wanted = (2 / (32 * kernel[0] * kernel[1])) ** 0.5
    assert abs(weight.std() / wanted - 1) < 0.02
    assert abs(weight.mean()) < 5 * wanted / weight.size**0.5


def test_linear_weights_are_uniform_in_their_bound():
    weight = Initializer(0).uniform_linear((200, 100))
    assert abs(weight).max() <= 0.1
    assert abs(weight.std() / (0.1 / 3**0.5) - 1) < 0.02


def test_same_seed_same_bits_and_every_draw_differs():
    first, second = Initializer(5), Initializer(5)
    draws = [init.he_normal((4, 3, 3, 3)) for init in (first, second, first)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).all()
    assert (Initializer(6).he_normal((4, 3, 3, 3)) != draws[0]).all()


def test_the_nth_draw_is_that_of_numpy_s_generator_with_the_seed_the_stream_and_n():
    init = Initializer(5)
    for n in (1, 2, 3):  # a change here would change every training
        generator = np.random.Generator(np.random.PCG64([5, INIT, n]))
        expected = generator.standard_normal((2, 3, 1, 1)) * (2 / 3) ** 0.5
        np.testing.assert_array_equal(init.he_normal((2, 3, 1, 1)), expected.astype(np.float32))


@pytest.mark.parametrize("seed", [0, -1, 2**64 + 3])
def test_any_integer_is_a_seed(seed):
    assert np.isfinite(Initializer(seed).he_normal((2, 2, 1, 1))).all()


def test_precisions_differ_by_rounding_alone():
    low, high = (Initializer(1, dtype).he_normal((2, 3, 3, 3)) for dtype in ("float32", "float64"))
    assert low.dtype == np.float32 and high.dtype == np.float64
    np.testing.assert_array_equal(low, high.astype(np.float32))
