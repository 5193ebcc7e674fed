"""The rectified linear unit, y = max(x, 0).

Source: Nair and Hinton 2010, "Rectified linear units improve restricted Boltzmann machines".
"""

from __future__ import annotations

from typing import NamedTuple

from minires.backend import Array, array_module, operation


class ReLUCache(NamedTuple):
    """The output y, any shape: it is positive exactly where the input was."""

    y: Array


@operation
def relu_forward(x: Array) -> tuple[Array, ReLUCache]:
    """y = max(x, 0), the shape of x, and the cache."""
    y = array_module(x).maximum(x, 0)
    return y, ReLUCache(y)


@operation
def relu_backward(grad_output: Array, cache: ReLUCache) -> Array:
    """grad_x: grad_output where the input was positive, 0 elsewhere (also at the kink, x = 0)."""
    return grad_output * (cache.y > 0)
