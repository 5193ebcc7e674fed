"""Pooling: the largest value of each window, and the mean of each channel."""

from __future__ import annotations

from typing import NamedTuple

from minires.backend import Array, accumulation_dtype, array_module, operation
from minires.functional.conv import pad_spatial, windows


class MaxPool2dCache(NamedTuple):
    """The winner of each window, (N, C, P, Q) int, as an index into the window, and geometry."""

    winner: Array
    x_shape: tuple[int, int, int, int]
    kernel_size: int
    stride: int
    padding: int


class GlobalAvgPoolCache(NamedTuple):
    """The shape (N, C, H, W) and the dtype of the input."""

    x_shape: tuple[int, int, int, int]
    like: Array


@operation
def max_pool2d_forward(
    x: Array, kernel_size: int, stride: int, padding: int = 0
) -> tuple[Array, MaxPool2dCache]:
    """The largest value in each window of x (N, C, H, W): y (N, C, P, Q) and the cache.

    Padding counts as minus infinity, so it never wins. Of equal values the first in row order wins.
    """
    padded = pad_spatial(x, padding, value=-float("inf"))
    view = windows(padded, (kernel_size, kernel_size), stride)
    flat = view.reshape(*view.shape[:4], kernel_size * kernel_size)
    winner = flat.argmax(axis=-1)
    y = array_module(x).take_along_axis(flat, winner[..., None], axis=-1)[..., 0]
    return y, MaxPool2dCache(winner, x.shape, kernel_size, stride, padding)


@operation
def max_pool2d_backward(grad_output: Array, cache: MaxPool2dCache) -> Array:
    """grad_x (N, C, H, W): each window sends its gradient to the pixel that won it.

    grad_output: (N, C, P, Q). A pixel that won several windows receives the sum.
    """
    winner, (n, c, h, w), kernel, stride, padding = cache
    p, q = grad_output.shape[2:]
    xp = array_module(grad_output)
    padded = xp.zeros((n, c, h + 2 * padding, w + 2 * padding), dtype=grad_output.dtype)
    for index in range(kernel * kernel):
        i, j = divmod(index, kernel)
        share = grad_output * (winner == index)
        padded[:, :, i : i + stride * p : stride, j : j + stride * q : stride] += share
    return padded[:, :, padding : padding + h, padding : padding + w]


@operation
def global_avg_pool_forward(x: Array) -> tuple[Array, GlobalAvgPoolCache]:
    """The mean of each channel of x (N, C, H, W): y (N, C) and the cache."""
    y = x.mean(axis=(2, 3), dtype=accumulation_dtype(x.dtype)).astype(x.dtype, copy=False)
    return y, GlobalAvgPoolCache(x.shape, y)


@operation
def global_avg_pool_backward(grad_output: Array, cache: GlobalAvgPoolCache) -> Array:
    """grad_x (N, C, H, W): every pixel receives grad_output (N, C) divided by H W."""
    n, c, h, w = cache.x_shape
    grad_x = array_module(grad_output).empty(cache.x_shape, dtype=cache.like.dtype)
    grad_x[...] = (grad_output / (h * w))[:, :, None, None]
    return grad_x
