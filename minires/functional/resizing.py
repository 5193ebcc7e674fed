"""Arrays in another shape: images enlarged, and images as vectors.

Both only copy values, so their gradients are bookkeeping: each value of the input receives the sum
of the gradients of its copies.
"""

from __future__ import annotations

from typing import NamedTuple

from minires.backend import Array, accumulation_dtype, array_module, operation


class UpsampleCache(NamedTuple):
    """The shape (N, C, H, W) of the input, and the factor."""

    x_shape: tuple[int, int, int, int]
    factor: int


class FlattenCache(NamedTuple):
    """The shape (N, ...) of the input."""

    x_shape: tuple[int, ...]


@operation
def upsample_forward(x: Array, factor: int) -> tuple[Array, UpsampleCache]:
    r"""Enlarge x (N, C, H, W) by a whole factor f: y (N, C, f H, f W) and the cache.

    Each pixel becomes a square of f x f equal ones (nearest neighbour):

    $$ y_{n,c,p,q} = x_{n,c,\lfloor p/f \rfloor, \lfloor q/f \rfloor} $$
    """
    xp = array_module(x)
    y = xp.repeat(xp.repeat(x, factor, axis=2), factor, axis=3)
    return y, UpsampleCache(x.shape, factor)


@operation
def upsample_backward(grad_output: Array, cache: UpsampleCache) -> Array:
    r"""grad_x (N, C, H, W): each pixel receives the sum over the f x f square that it became.

    grad_output: (N, C, f H, f W), written g:

    $$ \partial L/\partial x_{n,c,u,v} = \sum_{i,j=0}^{f-1} g_{n,c,\,fu+i,\,fv+j} $$
    """
    (n, c, h, w), f = cache
    squares = grad_output.reshape(n, c, h, f, w, f)
    total = squares.sum(axis=(3, 5), dtype=accumulation_dtype(grad_output.dtype))
    return total.astype(grad_output.dtype, copy=False)


@operation
def flatten_forward(x: Array) -> tuple[Array, FlattenCache]:
    """x (N, C, H, W) as vectors (N, C H W), channel by channel and row by row, and the cache."""
    return x.reshape(x.shape[0], -1), FlattenCache(x.shape)


@operation
def flatten_backward(grad_output: Array, cache: FlattenCache) -> Array:
    """grad_x (N, C, H, W): grad_output (N, C H W) in the shape of the input."""
    return grad_output.reshape(cache.x_shape)
