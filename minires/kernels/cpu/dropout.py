"""Dropout in memory order (H, W, N, C), with the same mask as the reference.

The mask is a hash of each value's number in the logical order (N, C, H, W). The reference makes all
64-bit hashes of an activation at once, and a dozen passes over them go to memory; here a pixel's
worth of them stays in the cache.
"""

from __future__ import annotations

import math

import numpy as np

from minires.backend import Array, kernel
from minires.functional.dropout import DropoutCache
from minires.functional.dropout import dropout_backward as _backward
from minires.functional.random import DROPOUT, random_bits, uniform
from minires.kernels.cpu.buffers import as_hwnc, logical, pool, to_hwnc
from minires.kernels.cpu.threads import parallel, shards
from minires.processes import first_image

_GOLDEN = 0x9E3779B97F4A7C15  # as in `functional.random`, whose SplitMix64 is repeated here
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, None))
_WORD = 1 << 64


@kernel("dropout_forward", "cpu")
def dropout_forward(
    x: Array, p: float, seed: int, layer: int = 0, step: int = 0
) -> tuple[Array, DropoutCache]:
    """`functional.dropout.dropout_forward`."""
    if x.ndim != 4:
        return _small(x, p, random_bits(seed, DROPOUT, layer, step, _numbers(x)))
    if x.dtype != np.float32:
        return NotImplemented
    hwnc = to_hwnc(x)
    h, w, n, c = hwnc.shape
    y, factor = pool.take(hwnc.shape), pool.take(hwnc.shape)
    state = int(random_bits(seed, DROPOUT, layer, step))
    # uniform(bits) >= p, as a comparison of the bits: uniform keeps the upper 24 of 64
    least = np.uint64(math.ceil(float(np.float32(p)) * 2**24) << 40)
    scale = np.float32(1.0 / (1.0 - p))
    parts, first = shards(n), first_image()

    def work(thread: int) -> None:
        images = parts[thread]
        numbers = np.arange((first + images.start) * c, (first + images.stop) * c, dtype=np.uint64)
        steps = numbers.reshape(-1, c) * np.uint64(h * w * _GOLDEN % _WORD)
        bits, shifted = np.empty_like(steps), np.empty_like(steps)
        for row, column in np.ndindex(h, w):
            offset = (state + (row * w + column) * _GOLDEN + 1) % _WORD
            np.add(steps, np.uint64(offset), out=bits)
            for shift, multiplier in _ROUNDS:
                np.right_shift(bits, np.uint64(shift), out=shifted)
                np.bitwise_xor(bits, shifted, out=bits)
                if multiplier is not None:
                    np.multiply(bits, np.uint64(multiplier), out=bits)
            mine = factor[row, column, images]
            np.multiply(bits >= least, scale, out=mine)
            np.multiply(hwnc[row, column, images], mine, out=y[row, column, images])

    parallel(work, len(parts))
    return logical(y), DropoutCache(logical(factor))


def _numbers(x: Array) -> np.ndarray:
    """The number of each value of vectors x (N, ...) in the whole batch's."""
    return np.arange(x.size) + first_image() * (x.size // max(1, len(x)))


def _small(x: Array, p: float, bits: np.ndarray) -> tuple[Array, DropoutCache]:
    """Vectors: as the reference does it."""
    keep = uniform(bits).reshape(x.shape) >= p
    factor = keep.astype(x.dtype) * x.dtype.type(1.0 / (1.0 - p))
    return x * factor, DropoutCache(factor)


@kernel("dropout_backward", "cpu")
def dropout_backward(grad_output: Array, cache: DropoutCache) -> Array:
    """`functional.dropout.dropout_backward`."""
    if grad_output.ndim != 4:
        return _backward.reference(grad_output, cache)
    factor = as_hwnc(cache.factor)
    if factor is None or grad_output.dtype != np.float32:
        return NotImplemented
    grad, grad_x = to_hwnc(grad_output), pool.take(factor.shape)
    parts = shards(factor.shape[2])

    def work(thread: int) -> None:
        images = parts[thread]
        for row in range(len(grad_x)):
            np.multiply(grad[row, :, images], factor[row, :, images], out=grad_x[row, :, images])

    parallel(work, len(parts))
    return logical(grad_x)
