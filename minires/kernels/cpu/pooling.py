"""Max pooling in memory order (H, W, N, C), a row of windows at a time.

Each position in the window is one pass over a row of outputs: compare, keep the larger, note who
won. What counts as much as the passes is that y lies ready for the next convolution (inside a
border of zeros) and the gradient as the kernel before it wants it; the reference would hand on
another memory order, to be copied.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minires.backend import Array, kernel
from minires.functional.conv import conv_output_size
from minires.functional.pooling import MaxPool2dCache
from minires.kernels.cpu import strips
from minires.kernels.cpu.buffers import as_hwnc, logical, pool, to_hwnc
from minires.kernels.cpu.threads import parallel, shards

LARGEST = 15  # the number of a position in the window has to fit into a byte


@kernel("max_pool2d_forward", "cpu")
def max_pool2d_forward(
    x: Array, kernel_size: int, stride: int, padding: int = 0
) -> tuple[Array, MaxPool2dCache]:
    """`functional.pooling.max_pool2d_forward`."""
    in_strips = strips.find(x)
    hwnc = as_hwnc(x) if in_strips is None else in_strips.inside.transpose(0, 2, 1, 3)
    if hwnc is None or kernel_size > LARGEST or 0 in x.shape:
        return NotImplemented
    n, c, h, w = x.shape
    p, q = (conv_output_size(size, kernel_size, stride, padding) for size in (h, w))
    source = _padded(hwnc, padding)
    y = pool.take_bordered(p, q, n, c)[1:-1, 1:-1]
    winner = np.empty((p, q, n, c), np.uint8)
    parts = shards(n)

    def work(thread: int) -> None:
        images = parts[thread]
        larger = np.empty((q, images.stop - images.start, c), bool)
        number = larger.view(np.uint8)
        for row in range(p):
            best, who = y[row, :, images], winner[row, :, images]
            taps = _taps(source, row, images, q, kernel_size, stride)
            np.copyto(best, next(taps))
            who[...] = 0
            for tap, values in enumerate(taps, start=1):
                np.greater(values, best, out=larger)
                np.maximum(best, values, out=best)
                np.multiply(number, np.uint8(tap), out=number)
                np.maximum(who, number, out=who)  # numbers rise, so the last winner is the largest

    parallel(work, len(parts))
    cache = MaxPool2dCache(logical(winner), x.shape, kernel_size, stride, padding)
    return logical(y), cache


@kernel("max_pool2d_backward", "cpu")
def max_pool2d_backward(grad_output: Array, cache: MaxPool2dCache) -> Array:
    """`functional.pooling.max_pool2d_backward`."""
    winner, (n, c, h, w), kernel_size, stride, padding = cache
    if grad_output.dtype != np.float32 or 0 in grad_output.shape:
        return NotImplemented
    grad, winner = to_hwnc(grad_output), winner.transpose(2, 3, 0, 1)
    p, q = grad.shape[:2]
    padded = pool.take((h + 2 * padding, w + 2 * padding, n, c))
    overlapping = kernel_size > stride
    covered = kernel_size == stride and (p * stride, q * stride) == padded.shape[:2]
    parts = shards(n)

    def work(thread: int) -> None:
        images = parts[thread]
        if not covered:
            padded[:, :, images] = 0
        won = np.empty((q, images.stop - images.start, c), bool)
        share = np.empty(won.shape, np.float32)
        for row in range(p):
            g, who = grad[row, :, images], winner[row, :, images]
            taps = _taps(padded, row, images, q, kernel_size, stride)
            for tap, target in enumerate(taps):
                np.equal(who, tap, out=won)
                if overlapping:
                    np.multiply(g, won, out=share)
                    np.add(target, share, out=target)
                else:
                    np.multiply(g, won, out=target)

    parallel(work, len(parts))
    return logical(padded[padding : padding + h, padding : padding + w])


def _padded(hwnc: np.ndarray, padding: int) -> np.ndarray:
    """`hwnc` with `padding` rows and columns of minus infinity around each image."""
    if padding == 0:
        return hwnc
    h, w, n, c = hwnc.shape
    padded = pool.take((h + 2 * padding, w + 2 * padding, n, c))
    padded[...] = -np.inf
    padded[padding:-padding, padding:-padding] = hwnc
    return padded


def _taps(
    x: np.ndarray, row: int, images: slice, q: int, kernel_size: int, stride: int
) -> Iterator[np.ndarray]:
    """For each position in the window, the pixels (Q, images, C) of x in one row of windows."""
    for i in range(kernel_size):
        for j in range(kernel_size):
            yield x[row * stride + i, j : j + stride * (q - 1) + 1 : stride, images]
