"""The small operations between the convolutions: addition, ReLU, shortcut A and pooling."""

from __future__ import annotations

import numpy as np

from minires.backend import Array, kernel
from minires.functional.conv import conv_output_size
from minires.functional.pooling import GlobalAvgPoolCache, MaxPool2dCache
from minires.functional.relu import ReLUCache
from minires.functional.shortcut import ShortcutACache
from minires.kernels.cuda.arrays import (
    THREADS,
    blocks_for,
    cuda_type,
    is_activation,
    logical,
    to_nhwc,
    vector_width,
)
from minires.kernels.cuda.instantiations import TYPES
from minires.kernels.cuda.runtime import empty, launch


def _elementwise(name: str, *given: Array) -> Array:
    """Launch `name` on activations, or matrices in row order, of one type and shape."""
    images = given[0].ndim == 4
    arrays = [to_nhwc(array) for array in given] if images else given
    out = empty(arrays[0].shape, arrays[0].dtype)
    width = vector_width(out.size, *arrays, out)
    kernel_name = f"{name}<{cuda_type(out)}, {width}>"
    launch("elementwise", kernel_name, blocks_for(-(-out.size // width)), (THREADS,), *arrays, out,
           np.int64(out.size))
    return logical(out) if images else out


def _are_matrices(*arrays: Array) -> bool:
    """Whether all arrays are matrices of one activation type in row order, and not empty."""
    dtype = arrays[0].dtype
    return dtype.name in TYPES and all(
        a.ndim == 2 and a.dtype == dtype and a.flags.c_contiguous and a.size for a in arrays
    )


@kernel("add", "gpu")
def add(a: Array, b: Array) -> Array:
    """`functional.shortcut.add`."""
    if a.shape != b.shape or a.ndim != 4 or not is_activation(a, b):
        return NotImplemented
    return _elementwise("add", a, b)


@kernel("relu_forward", "gpu")
def relu_forward(x: Array) -> tuple[Array, ReLUCache]:
    """`functional.relu.relu_forward`."""
    if not (is_activation(x) or _are_matrices(x)):
        return NotImplemented
    y = _elementwise("relu_forward", x)
    return y, ReLUCache(y)


@kernel("relu_backward", "gpu")
def relu_backward(grad_output: Array, cache: ReLUCache) -> Array:
    """`functional.relu.relu_backward`."""
    given = (grad_output, cache.y)
    if not (is_activation(*given) or _are_matrices(*given)):
        return NotImplemented
    return _elementwise("relu_backward", *given)


@kernel("shortcut_a_forward", "gpu")
def shortcut_a_forward(x: Array, out_channels: int, stride: int) -> tuple[Array, ShortcutACache]:
    """`functional.shortcut.shortcut_a_forward`."""
    if not is_activation(x):
        return NotImplemented
    n, c, h, w = x.shape
    p, q = -(-h // stride), -(-w // stride)
    first = (out_channels - c) // 2
    y = empty((n, p, q, out_channels), x.dtype)
    launch("elementwise", f"shortcut_forward<{cuda_type(x)}>", blocks_for(y.size), (THREADS,),
           to_nhwc(x), y, n, h, w, c, p, q, out_channels, stride, first)
    return logical(y), ShortcutACache(x.shape, stride, first)


@kernel("shortcut_a_backward", "gpu")
def shortcut_a_backward(grad_output: Array, cache: ShortcutACache) -> Array:
    """`functional.shortcut.shortcut_a_backward`."""
    if not is_activation(grad_output):
        return NotImplemented
    n, c, h, w = cache.x_shape
    _, k, p, q = grad_output.shape
    grad_x = empty((n, h, w, c), grad_output.dtype)
    launch("elementwise", f"shortcut_backward<{cuda_type(grad_x)}>", blocks_for(grad_x.size),
           (THREADS,), to_nhwc(grad_output), grad_x, n, h, w, c, p, q, k, cache.stride,
           cache.first)
    return logical(grad_x)


@kernel("global_avg_pool_forward", "gpu")
def global_avg_pool_forward(x: Array) -> tuple[Array, GlobalAvgPoolCache]:
    """`functional.pooling.global_avg_pool_forward`."""
    if not is_activation(x):
        return NotImplemented
    n, c, h, w = x.shape
    y = empty((n, c), x.dtype)
    launch("pooling", f"average_forward<{cuda_type(x)}>", (-(-c // 64), n), (64,), to_nhwc(x), y,
           h * w, c)
    return y, GlobalAvgPoolCache(x.shape, y)


@kernel("global_avg_pool_backward", "gpu")
def global_avg_pool_backward(grad_output: Array, cache: GlobalAvgPoolCache) -> Array:
    """`functional.pooling.global_avg_pool_backward`; a float32 gradient may meet a 16-bit input."""
    types = (grad_output.dtype.name, cache.like.dtype.name)
    fits = types[0] in (types[1], "float32") and types[1] in TYPES
    if not fits or not grad_output.size or not grad_output.flags.c_contiguous:
        return NotImplemented
    n, c, h, w = cache.x_shape
    grad_x = empty((n, h, w, c), cache.like.dtype)
    name = f"average_backward<{TYPES[types[0]]}, {TYPES[types[1]]}>"
    launch("pooling", name, blocks_for(grad_x.size), (THREADS,), grad_output, grad_x, n, h * w, c)
    return logical(grad_x)


@kernel("max_pool2d_forward", "gpu")
def max_pool2d_forward(
    x: Array, kernel_size: int, stride: int, padding: int = 0
) -> tuple[Array, MaxPool2dCache]:
    """`functional.pooling.max_pool2d_forward`."""
    if not is_activation(x):
        return NotImplemented
    n, c, h, w = x.shape
    p, q = (conv_output_size(size, kernel_size, stride, padding) for size in (h, w))
    y, winner = empty((n, p, q, c), x.dtype), empty((n, p, q, c), np.int32)
    launch("pooling", f"max_forward<{cuda_type(x)}>", blocks_for(y.size), (THREADS,), to_nhwc(x),
           y, winner, n, h, w, c, p, q, kernel_size, stride, padding)
    cache = MaxPool2dCache(logical(winner), x.shape, kernel_size, stride, padding)
    return logical(y), cache


@kernel("max_pool2d_backward", "gpu")
def max_pool2d_backward(grad_output: Array, cache: MaxPool2dCache) -> Array:
    """`functional.pooling.max_pool2d_backward`."""
    winner, (n, c, h, w), kernel_size, stride, padding = cache
    order = winner.transpose(0, 2, 3, 1)
    if not is_activation(grad_output) or winner.dtype != np.int32 or not order.flags.c_contiguous:
        return NotImplemented
    p, q = grad_output.shape[2:]
    grad_x = empty((n, h, w, c), grad_output.dtype)
    launch("pooling", f"max_backward<{cuda_type(grad_x)}>", blocks_for(grad_x.size), (THREADS,),
           to_nhwc(grad_output), order, grad_x, n, h, w, c, p, q, kernel_size, stride,
           padding)
    return logical(grad_x)
