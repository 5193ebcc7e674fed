"""The parts of a residual connection that have no parameters: shortcut A and the addition.

Source: He et al. 2015, "Deep residual learning for image recognition", section 3.3.
"""

from __future__ import annotations

from typing import NamedTuple

from minires.backend import Array, array_module, operation


class ShortcutACache(NamedTuple):
    """The shape (N, C, H, W) of the input, the stride and the first channel that was copied to."""

    x_shape: tuple[int, int, int, int]
    stride: int
    first: int


@operation
def shortcut_a_forward(
    x: Array, out_channels: int, stride: int
) -> tuple[Array, ShortcutACache]:
    """Every `stride`-th pixel of x (N, C, H, W), with zero channels around: (N, K, P, Q), cache.

    Half of the new channels (rounded down) stand before those of x, the rest after them, as in the
    CIFAR networks that people share weights of.
    """
    picked = x[:, :, ::stride, ::stride]
    n, c, p, q = picked.shape
    first = (out_channels - c) // 2
    y = array_module(x).zeros((n, out_channels, p, q), dtype=x.dtype)
    y[:, first : first + c] = picked
    return y, ShortcutACache(x.shape, stride, first)


@operation
def shortcut_a_backward(grad_output: Array, cache: ShortcutACache) -> Array:
    """grad_x (N, C, H, W): the gradient of the copied channels at the picked pixels, 0 elsewhere.

    grad_output: (N, K, P, Q).
    """
    grad_x = array_module(grad_output).zeros(cache.x_shape, dtype=grad_output.dtype)
    channels = slice(cache.first, cache.first + cache.x_shape[1])
    grad_x[:, :, :: cache.stride, :: cache.stride] = grad_output[:, channels]
    return grad_x


@operation
def add(a: Array, b: Array) -> Array:
    """a + b, equal shapes: the join of a residual block, and the sum of gradients at its fork."""
    return a + b
