"""The small operations around the convolutions, in memory order (H, W, N, C) and in reused buffers.

What counts here is the memory order that they hand on: a gradient in any other order would be
copied by the next kernel.
"""

from __future__ import annotations

import numpy as np

from minires.backend import Array, kernel, options
from minires.functional.optimizer import sgd_step as _sgd_step
from minires.functional.pooling import GlobalAvgPoolCache
from minires.functional.shortcut import ShortcutACache
from minires.kernels.cpu import loops, strips
from minires.kernels.cpu.buffers import as_hwnc, logical, pool
from minires.kernels.cpu.regions import region
from minires.kernels.cpu.strips import Strips
from minires.kernels.cpu.threads import parallel, pieces, shards


@kernel("add", "cpu")
def add(a: Array, b: Array) -> Array:
    """`functional.shortcut.add`."""
    if (strips.find(a) or strips.find(b)) and a.dtype == b.dtype:
        return _add_in_strips(a, b)
    first, second = (as_hwnc(v) if v.ndim == 4 else None for v in (a, b))
    if first is None or second is None:
        return NotImplemented
    h, w, n, c = first.shape
    out = pool.take(first.shape)
    left, right, target = region(first), region(second), region(out)
    parts = pieces(h, n, c)

    def work(thread: int) -> None:
        row, rows, lo, length = parts[thread]
        loops.add(left.at(row, lo), right.at(row, lo), target.at(row, lo), rows, w, length)

    parallel(work, len(parts))
    return logical(out)


def _add_in_strips(a: Array, b: Array) -> Array:
    n, c, h, w = a.shape
    left, right = (v.transpose(2, 0, 3, 1) for v in (a, b))
    y = strips.take(h, w, n, c)
    parts = shards(h)

    def work(thread: int) -> None:
        rows = parts[thread]
        np.add(left[rows], right[rows], out=y.inside[rows])

    parallel(work, len(parts))
    y.close()
    return y.logical()


@kernel("shortcut_a_forward", "cpu")
def shortcut_a_forward(x: Array, out_channels: int, stride: int) -> tuple[Array, ShortcutACache]:
    """`functional.shortcut.shortcut_a_forward`."""
    first = (out_channels - x.shape[1]) // 2
    cache = ShortcutACache(x.shape, stride, first)
    in_strips = strips.find(x)
    if in_strips is not None:
        return _shortcut_a_in_strips(in_strips, out_channels, stride, first), cache
    hwnc = as_hwnc(x)
    if hwnc is None:
        return NotImplemented
    picked = hwnc[::stride, ::stride]
    h, w, n, c = picked.shape
    y = pool.take((h, w, n, out_channels))
    parts = shards(h)

    def work(thread: int) -> None:
        rows = parts[thread]
        y[rows] = 0  # all: one run of memory is filled faster than the pieces beside the channels
        y[rows, ..., first : first + c] = picked[rows]

    parallel(work, len(parts))
    return logical(y), cache


def _shortcut_a_in_strips(x: Strips, out_channels: int, stride: int, first: int) -> Array:
    picked = x.inside[::stride, :, ::stride]
    h, n, w, c = picked.shape
    y = strips.take(h, w, n, out_channels)
    parts = shards(h)

    def work(thread: int) -> None:
        rows = parts[thread]
        y.pixels[rows] = 0
        y.inside[rows, ..., first : first + c] = picked[rows]

    parallel(work, len(parts))
    return y.logical()


@kernel("shortcut_a_backward", "cpu")
def shortcut_a_backward(grad_output: Array, cache: ShortcutACache) -> Array:
    """`functional.shortcut.shortcut_a_backward`."""
    grad = as_hwnc(grad_output)
    if grad is None:
        return NotImplemented
    n, c, h, w = cache.x_shape
    grad_x = pool.take((h, w, n, c))
    if cache.stride > 1:
        grad_x[...] = 0
    grad_x[:: cache.stride, :: cache.stride] = grad[..., cache.first : cache.first + c]
    return logical(grad_x)


@kernel("global_avg_pool_forward", "cpu")
def global_avg_pool_forward(x: Array) -> tuple[Array, GlobalAvgPoolCache]:
    """`functional.pooling.global_avg_pool_forward`."""
    in_strips, hwnc = strips.find(x), as_hwnc(x)
    if in_strips is not None:
        total = np.add.reduce(np.add.reduce(in_strips.inside, axis=0), axis=1)
    elif hwnc is not None:
        total = np.add.reduce(hwnc, axis=(0, 1))
    else:
        return NotImplemented
    y = total * np.float32(1.0 / (x.shape[2] * x.shape[3]))
    return y, GlobalAvgPoolCache(x.shape, y)


@kernel("global_avg_pool_backward", "cpu")
def global_avg_pool_backward(grad_output: Array, cache: GlobalAvgPoolCache) -> Array:
    """`functional.pooling.global_avg_pool_backward`."""
    if grad_output.dtype != np.float32:
        return NotImplemented
    n, c, h, w = cache.x_shape
    grad_x = pool.take((h, w, n, c))
    grad_x[...] = grad_output * np.float32(1.0 / (h * w))
    return logical(grad_x)


@kernel("sgd_step", "cpu")
def sgd_step(weights, grads, velocity, lr, momentum, weight_decay, nesterov, skip=None) -> None:
    """`functional.optimizer.sgd_step`, each thread on a piece of the flat arrays."""
    if skip is not None and skip:
        return None
    size = weights.size
    if size < 100_000 or options.threads == 1:
        return _sgd_step.reference(weights, grads, velocity, lr, momentum, weight_decay, nesterov)
    bounds = [size * i // options.threads for i in range(options.threads + 1)]

    def work(thread: int) -> None:
        piece = slice(bounds[thread], bounds[thread + 1])
        _sgd_step.reference(
            weights[piece], grads[piece], velocity[piece], lr, momentum, weight_decay, nesterov
        )

    parallel(work, options.threads)
    return None
