"""Dropout, enlargement and flattening: the operations that know where a value stands."""

from __future__ import annotations

import numpy as np

from minires.backend import Array, kernel
from minires.functional.dropout import DropoutCache
from minires.functional.random import DROPOUT, random_bits
from minires.functional.resizing import FlattenCache, UpsampleCache
from minires.kernels.cuda.arrays import (
    THREADS,
    blocks_for,
    cuda_type,
    either,
    is_activation,
    logical,
    to_nhwc,
    to_rows,
)
from minires.kernels.cuda.instantiations import TYPES
from minires.kernels.cuda.runtime import empty, launch


def _is_rows(x: Array) -> bool:
    """Whether x is a matrix of an activation type in row order."""
    return x.ndim == 2 and x.dtype.name in TYPES and bool(x.size) and x.flags.c_contiguous


@kernel("dropout_forward", "gpu")
def dropout_forward(x: Array, p: float, seed: int, layer: int = 0, step: int = 0):
    """`functional.dropout.dropout_forward`, the same mask; step may be a 0-d array on the device.

    x: (N, C, H, W), or (N, C).
    """
    if not (_is_rows(x) or is_activation(x)):
        return NotImplemented
    source = to_nhwc(x) if x.ndim == 4 else x
    n, c, *size = x.shape
    y, factor = empty(source.shape, x.dtype), empty(source.shape, x.dtype)
    launch("dropout", f"dropout_forward<{cuda_type(x)}>", blocks_for(x.size), (THREADS,), source,
           y, factor, np.uint64(random_bits(seed, DROPOUT, layer)), *either(step, np.int64), n,
           int(np.prod(size)), c, float(p), 1.0 / (1.0 - p))
    return (logical(y), DropoutCache(logical(factor))) if x.ndim == 4 else (y, DropoutCache(factor))


@kernel("dropout_backward", "gpu")
def dropout_backward(grad_output: Array, cache: DropoutCache):
    """`functional.dropout.dropout_backward`; a float32 gradient may meet a 16-bit factor."""
    factor = cache.factor
    types = (grad_output.dtype.name, factor.dtype.name)
    fits = types[0] in (types[1], "float32") and types[1] in TYPES
    if not fits or grad_output.shape != factor.shape or not grad_output.size:
        return NotImplemented
    if grad_output.ndim == 4:
        grad, mask = to_nhwc(grad_output), to_nhwc(factor)
    elif _is_rows(grad_output) and _is_rows(factor):
        grad, mask = grad_output, factor
    else:
        return NotImplemented
    grad_x = empty(grad.shape, grad.dtype)
    launch("dropout", f"dropout_backward<{TYPES[types[0]]}, {TYPES[types[1]]}>",
           blocks_for(grad.size), (THREADS,), grad, mask, grad_x, np.int64(grad.size))
    return logical(grad_x) if grad_output.ndim == 4 else grad_x


@kernel("upsample_forward", "gpu")
def upsample_forward(x: Array, factor: int):
    """`functional.resizing.upsample_forward`."""
    if not is_activation(x):
        return NotImplemented
    n, c, h, w = x.shape
    y = empty((n, h * factor, w * factor, c), x.dtype)
    launch("resizing", f"upsample_forward<{cuda_type(x)}>", blocks_for(y.size), (THREADS,),
           to_nhwc(x), y, n, h, w, c, factor)
    return logical(y), UpsampleCache(x.shape, factor)


@kernel("upsample_backward", "gpu")
def upsample_backward(grad_output: Array, cache: UpsampleCache):
    """`functional.resizing.upsample_backward`."""
    if not is_activation(grad_output):
        return NotImplemented
    n, c, h, w = cache.x_shape
    grad_x = empty((n, h, w, c), grad_output.dtype)
    launch("resizing", f"upsample_backward<{cuda_type(grad_x)}>", blocks_for(grad_x.size),
           (THREADS,), to_nhwc(grad_output), grad_x, n, h, w, c, cache.factor)
    return logical(grad_x)


class TypedFlattenCache(FlattenCache):
    """A `FlattenCache` that knows the type of the input."""

    dtype: np.dtype


@kernel("flatten_forward", "gpu")
def flatten_forward(x: Array):
    """`functional.resizing.flatten_forward`: x comes into row order."""
    if not is_activation(x):
        return NotImplemented
    cache = TypedFlattenCache(x.shape)
    cache.dtype = x.dtype
    return to_rows(x).reshape(x.shape[0], -1), cache


@kernel("flatten_backward", "gpu")
def flatten_backward(grad_output: Array, cache: FlattenCache):
    """`functional.resizing.flatten_backward`: grad_x has the type of the input."""
    if not _is_rows(grad_output):
        return NotImplemented
    grad = grad_output.reshape(cache.x_shape)
    return logical(to_nhwc(grad, getattr(cache, "dtype", grad.dtype)))
