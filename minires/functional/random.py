"""Random numbers that are a function of a seed and of coordinates, not of a generator's state.

A training draws random numbers for the shuffling, the augmentation, dropout and the initial
weights. Each draw here is `hash(seed, stream, coordinates...)`, for example (seed, AUGMENT, epoch,
image). There is no state to save, so a training resumes exactly, and the same integers come out of
NumPy, CuPy and a kernel.

Source: the mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast
splittable pseudorandom number generators", figure 17).
"""

from __future__ import annotations

import numpy as np

from minires.backend import Array

SHUFFLE, AUGMENT, DROPOUT, INIT, SPLIT, SHAPES = range(1, 7)
"""The streams: draws for different purposes never share their numbers."""

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def random_bits(seed: int, stream: int, *coordinates: int | Array) -> Array:
    """64 random bits for each combination of `coordinates`.

    coordinates: integers or integer arrays that broadcast against each other; returns a uint64
    array of the broadcast shape. Equal arguments always give equal bits.
    """
    state = _mix_int(_mix_int(seed + _GOLDEN) + stream * _GOLDEN)
    for coordinate in coordinates:
        if not hasattr(coordinate, "ndim") or coordinate.ndim == 0:
            coordinate = (int(coordinate) * _GOLDEN + 1) & _MASK
        else:
            coordinate = coordinate.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(1)
        state = _add_and_mix(state, coordinate)
    if isinstance(state, int):
        return np.asarray(state, dtype=np.uint64)
    return state


def uniform(bits: Array) -> Array:
    """Numbers in [0, 1) from random bits: the top 24 bits, as float32 (all exactly representable).

    bits: uint64 array; returns a float32 array of the same shape.
    """
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def integers(bits: Array, low: int, high: int) -> Array:
    """Integers from `low` to `high` inclusive, from random bits (bias below 2**-32).

    bits: uint64 array; returns an int64 array of the same shape.
    """
    span = np.uint64(high - low + 1)
    return ((bits >> np.uint64(32)) * span >> np.uint64(32)).astype(np.int64) + low


def _add_and_mix(state: int | Array, step: int | Array) -> int | Array:
    """`mix(state + step)`; Python integers stay Python integers until an array comes in."""
    if isinstance(state, int) and isinstance(step, int):
        return _mix_int(state + step)
    state = np.uint64(state) if isinstance(state, int) else state
    step = np.uint64(step) if isinstance(step, int) else step
    return _mix(state + step)


def _mix(z: Array) -> Array:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _mix_int(z: int) -> int:
    """`_mix` for one Python integer, modulo 2**64."""
    z &= _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
