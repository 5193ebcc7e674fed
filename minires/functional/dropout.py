"""Inverted dropout: zero a random share of the values in training, and scale up the rest.

Source: Srivastava et al. 2014, "Dropout", section 10 (scaling at training time).
"""

from __future__ import annotations

from typing import NamedTuple

from minires.backend import Array, array_module, operation
from minires.functional.random import DROPOUT, random_bits, uniform


class DropoutCache(NamedTuple):
    """The factor, 0 or 1/(1 - p), that each value was multiplied by: the shape of x."""

    factor: Array


@operation
def dropout_forward(
    x: Array, p: float, seed: int, layer: int = 0, step: int = 0
) -> tuple[Array, DropoutCache]:
    """y = x * factor, where factor is 0 with probability p and 1/(1 - p) otherwise.

    x: any shape; the expectation of y is x. The mask is a function of (seed, layer, step) and of
    the position in x, so the same step drops the same values again.
    """
    xp = array_module(x)
    bits = random_bits(seed, DROPOUT, layer, step, xp.arange(x.size))
    keep = uniform(bits).reshape(x.shape) >= p
    factor = keep.astype(x.dtype) * xp.asarray(1.0 / (1.0 - p), dtype=x.dtype)
    return x * factor, DropoutCache(factor)


@operation
def dropout_backward(grad_output: Array, cache: DropoutCache) -> Array:
    """grad_x = grad_output * factor, any shape."""
    return grad_output * cache.factor
