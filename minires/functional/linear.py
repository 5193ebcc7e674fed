"""The fully connected layer, y = x W^T + b."""

from __future__ import annotations

from typing import NamedTuple

from minires.backend import Array, accumulation_dtype, operation


class LinearCache(NamedTuple):
    """What `linear_backward` needs: x (N, C), weight (K, C), and whether there is a bias."""

    x: Array
    weight: Array
    has_bias: bool


@operation
def linear_forward(
    x: Array, weight: Array, bias: Array | None = None
) -> tuple[Array, LinearCache]:
    """y = x W^T + b: x (N, C), weight (K, C), bias (K,) or None; y (N, K) and the cache."""
    y = x @ weight.T
    if bias is not None:
        y = y + bias
    return y, LinearCache(x, weight, bias is not None)


@operation
def linear_backward(
    grad_output: Array, cache: LinearCache
) -> tuple[Array, Array, Array | None]:
    """grad_x (N, C) = g W, grad_weight (K, C) = g^T x, grad_bias (K,) = the sum of g over N.

    grad_output g: (N, K).
    """
    grad_x = grad_output @ cache.weight
    grad_weight = grad_output.T @ cache.x
    grad_bias = None
    if cache.has_bias:
        grad_bias = grad_output.sum(axis=0, dtype=accumulation_dtype(grad_output.dtype))
    return grad_x, grad_weight, grad_bias
