"""A thread's whole share of a Winograd convolution in one call, without Python in between.

What `fused` and `convolution.Winograd` do chunk by chunk, in the same order: a few images, one row
of tiles, through transform, products, transform and batch norm's sums while they are in the cache.
Threads that go back to Python after each step wait for the interpreter's lock, which takes longer
than a small step. 16 channels at 32x32, 128 images, two threads on two Zen 4 cores: forward 3.4 ms
against 3.8, backward 5.5 against 6.7, evaluation 2.8 against 3.7.

`v` and `m` are the planes of input and output, the thread's own scratch; `sgemm` is the address of
`compiled_blas`. A thread has the images `first` to `last`, `block` at a time.
"""

from __future__ import annotations

import numpy as np

from minires.kernels.cpu.compiled import (
    compiled,
    input_adjoint,
    input_transform,
    output_adjoint,
    output_transform,
)
from minires.kernels.cpu.compiled_blas import add_product, multiply, multiply_turned
from minires.kernels.cpu.compiled_elementwise import add_moments, input_gradient, normalize
from minires.kernels.cpu.regions import Region


@compiled
def _moved(region, row, lo):
    """`Region.at`."""
    return Region(region.array, region.row + row, region.column, region.lo + lo)


@compiled
def convolve(sgemm, x, filters, first, last, block, at_once, v, m, y, moments):
    """y (H, W, N K) = conv(x), and its `moments` (3, K)."""
    c, k, width = filters.shape[1], filters.shape[2], y.shape[1]
    for start in range(first, last, block):
        images = min(block, last - start)
        lo, length = start * k, images * k
        for row in range(0, y.shape[0], 4):
            input_transform(x, row, start * c, (start + images) * c, v)
            multiply(sgemm, v, filters, m, width // 4 * images, c, k, at_once)
            output_transform(m, y, row, lo, lo + length)
            add_moments(Region(y, row, 0, lo), 4, width, length, moments)


@compiled
def evaluate(
    sgemm, x, filters, bias, first, last, block, at_once, v, m, y, out, shortcut, has_shortcut, relu
):
    """out = relu(conv(x) + bias + shortcut); y (4, W, block K) is scratch for one row of tiles."""
    c, k, width = filters.shape[1], filters.shape[2], y.shape[1]
    scale = np.ones(k, np.float32)
    for start in range(first, last, block):
        images = min(block, last - start)
        lo, length = start * k, images * k
        for row in range(0, x.shape[0] - 2, 4):
            input_transform(x, row, start * c, (start + images) * c, v)
            multiply(sgemm, v, filters, m, width // 4 * images, c, k, at_once)
            output_transform(m, y, 0, 0, length)
            normalize(
                Region(y, 0, 0, 0), _moved(out, row, lo), _moved(shortcut, row, lo), has_shortcut,
                4, width, length, scale, bias, relu,
            )  # fmt: skip


@compiled
def differentiate(
    sgemm, x, filters, first, last, block, at_once, v, m, chunk, grad, y, coefficients, scale,
    shift, grad_filters, grad_x, turned,
):  # fmt: skip
    """The gradients of the filters, summed over the thread's images, and of the padded input.

    grad_y = a g + b y + c, as `input_gradient`, into `chunk`. grad_x is empty if nobody needs it.
    `turned` is U^T in memory if BLAS is faster with it, else it is empty.
    """
    c, k, width = filters.shape[1], filters.shape[2], chunk.shape[1]
    for start in range(first, last, block):
        images = min(block, last - start)
        lo, hi, length = start * c, (start + images) * c, images * k
        rows = width // 4 * images
        for row in range(0, x.shape[0] - 2, 4):
            input_gradient(
                _moved(grad, row, start * k), _moved(y, row, start * k), Region(chunk, 0, 0, 0),
                4, width, length, coefficients, scale, shift,
            )  # fmt: skip
            output_adjoint(chunk, 0, 0, length, m)
            input_transform(x, row, lo, hi, v)
            add_product(sgemm, v, m, grad_filters, rows, c, k, start == first and row == 0)
            if grad_x.size == 0:
                continue
            if turned.size:
                multiply(sgemm, m, turned, v, rows, k, c, at_once)
            else:
                multiply_turned(sgemm, m, filters, v, rows, k, c)
            fresh = row if row == 0 else row + 2
            grad_x[fresh : row + 6, :, lo:hi] = 0
            input_adjoint(v, grad_x, row, lo, hi)
