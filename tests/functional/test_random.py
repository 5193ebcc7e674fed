from __future__ import annotations

import numpy as np
import pytest

from minires.functional import random as minires_random
from minires.functional.random import integers, random_bits, uniform

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(z):
    """The finaliser of SplitMix64 on Python integers."""
    z &= MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def bits(seed, stream, *coordinates):
    state = mix(mix(seed + GOLDEN) + stream * GOLDEN)
    for coordinate in coordinates:
        state = mix(state + coordinate * GOLDEN + 1)
    return state


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_equals_integer_arithmetic(seed):
    found = random_bits(seed, 3, 5, np.arange(4)[:, None], np.arange(3))
    assert found.dtype == np.uint64 and found.shape == (4, 3)
    for i in range(4):
        for j in range(3):
            assert int(found[i, j]) == bits(seed, 3, 5, i, j)


def test_plain_numbers_and_arrays_give_the_same_bits():
    plain, array = random_bits(7, 2, 1, 9), random_bits(7, 2, 1, np.array([9]))
    assert plain.dtype == array.dtype == np.uint64 and plain.shape == ()
    assert int(plain) == int(array[0])


def test_streams_never_share_numbers():
    names = ("SHUFFLE", "AUGMENT", "DROPOUT", "INIT", "SPLIT", "SHAPES")
    streams = [getattr(minires_random, name) for name in names]
    draws = np.stack([random_bits(0, stream, np.arange(1000)) for stream in streams])
    assert len(np.unique(draws)) == draws.size


def test_uniform_is_uniform():
    values = uniform(random_bits(0, 1, np.arange(100_000)))
    assert values.dtype == np.float32
    assert values.min() >= 0 and values.max() < 1
    counts = np.histogram(values, bins=10, range=(0, 1))[0]
    assert abs(counts - 10_000).max() < 5 * 10_000**0.5


def test_integers_include_both_ends():
    values = integers(random_bits(0, 1, np.arange(10_000)), -2, 3)
    assert values.dtype == np.int64
    assert sorted(set(values.tolist())) == [-2, -1, 0, 1, 2, 3]
