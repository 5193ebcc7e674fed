"""A convolution on its own, where no batch norm follows it: the strategies of `convolution`."""

from __future__ import annotations

import numpy as np

from minires.backend import Array, kernel
from minires.functional.conv import Conv2dCache
from minires.kernels.cpu.buffers import logical, pool, to_hwnc
from minires.kernels.cpu.convolution import chunks
from minires.kernels.cpu.gradient_rows import GradientRows
from minires.kernels.cpu.regions import Region, region
from minires.kernels.cpu.strategies import strategy
from minires.kernels.cpu.threads import parallel, workspace


@kernel("conv2d_forward", "cpu")
def conv2d_forward(
    x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0
) -> tuple[Array, Conv2dCache]:
    """`functional.conv.conv2d_forward`."""
    conv = strategy(x, weight, stride, padding, bias)
    if conv is None:
        return NotImplemented
    n, k = x.shape[0], weight.shape[0]
    h, w = conv.output_size
    y = pool.take((h, w, n, k))
    flat = y.reshape(h, w, n * k)
    conv.begin_forward()

    def work(thread: int) -> None:
        for images, row, _ in chunks(conv, thread):
            conv.forward(row, images, flat, row, images.start * k, workspace(thread))

    parallel(work, len(conv.shares))
    return logical(y), Conv2dCache(x, weight, bias is not None, stride, padding)


@kernel("conv2d_backward", "cpu")
def conv2d_backward(
    grad_output: Array, cache: Conv2dCache, need_grad_x: bool = True
) -> tuple[Array | None, Array, Array | None]:
    """`functional.conv.conv2d_backward`."""
    x, weight, has_bias, stride, padding = cache
    if grad_output.dtype != np.float32:
        return NotImplemented
    conv = strategy(x, weight, stride, padding)
    if conv is None:
        return NotImplemented
    grad = region(to_hwnc(grad_output))
    k, w = weight.shape[0], conv.output_size[1]
    conv.begin_backward(need_grad_x, len(conv.shares))
    sums = np.zeros((len(conv.shares), k))

    def values(images: slice, row: int, rows: int) -> np.ndarray:
        lo, hi = (grad.lo + i * k for i in (images.start, images.stop))
        first, left = grad.row + row, grad.column
        return grad.array[first : first + rows, left : left + w, lo:hi]

    def make(images: slice, row: int, rows: int, target: Region) -> None:
        place = target.array[target.row : target.row + rows, target.column : target.column + w]
        np.copyto(place, values(images, row, rows))

    def work(thread: int) -> None:
        ws = workspace(thread)
        grads = GradientRows(conv, make, ws)
        for images, row, rows in chunks(conv, thread, backward=True):
            if has_bias:
                pixels = np.add.reduce(values(images, row, rows), axis=(0, 1))
                sums[thread] += pixels.reshape(-1, k).sum(axis=0, dtype=np.float64)
            conv.backward(row, images, grads.take(images, row, rows), ws, thread)
        conv.finish_thread(ws, thread)

    parallel(work, len(conv.shares))
    grad_bias = sums.sum(axis=0).astype(np.float32) if has_bias else None
    return conv.grad_input(), conv.grad_weight(), grad_bias
