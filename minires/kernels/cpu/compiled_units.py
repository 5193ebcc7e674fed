"""A thread's whole share of a Winograd convolution in one call, without Python in between.

What `fused` and `convolution.Winograd` do chunk by chunk, in the same order: a few images, one row
of tiles, through transform, products, transform and batch norm's sums while they are in the cache.
Threads that go back to Python after each step wait for the interpreter's lock, which takes longer
than a small step. 16 channels at 32x32, 128 images, two threads on two Zen 4 cores: forward 3.4 ms
against 3.8, backward (as it was then) 5.5 against 6.7, evaluation 2.8 against 3.7.

Stride 1 is `winograd`, stride 2 `strided`; `targets` says to which position of the output each
product belongs. `v` and `m` are the planes of input and output, the thread's own scratch. A thread
has the images `first` to `last`, `block` at a time.
"""

from __future__ import annotations

import numpy as np

from minires.kernels.cpu import compiled_strided as strided
from minires.kernels.cpu.compiled import (
    compiled,
    input_transform,
    output_adjoint,
    output_transform,
)
from minires.kernels.cpu.compiled_elementwise import add_moments, input_gradient, normalize
from minires.kernels.cpu.compiled_product import add_products, multiply, multiply_back
from minires.kernels.cpu.regions import Region


@compiled
def _moved(region, row, lo):
    """`Region.at`."""
    return Region(region.array, region.row + row, region.column, region.lo + lo)


@compiled
def _input_transform(stride, x, row, lo, hi, v):
    """From the row of the padded x that belongs to the output's row `row`."""
    if stride == 1:
        input_transform(x, row, lo, hi, v)
    else:
        strided.input_transform(x, 2 * row, lo, hi, v)


@compiled
def _output_transform(stride, m, y, row, lo, hi):
    if stride == 1:
        output_transform(m, y, row, lo, hi)
    else:
        strided.output_transform(m, y, row, lo, hi)


@compiled
def convolve(x, stride, targets, filters, first, last, block, v, m, y, moments):
    """y (H, W, N K) = conv(x), and its `moments` (3, K)."""
    c, k, width = filters.shape[1], filters.shape[2], y.shape[1]
    for start in range(first, last, block):
        images = min(block, last - start)
        lo, length = start * k, images * k
        for row in range(0, y.shape[0], 4):
            _input_transform(stride, x, row, start * c, (start + images) * c, v)
            multiply(v, filters, m, targets, width // 4 * images)
            _output_transform(stride, m, y, row, lo, lo + length)
            add_moments(Region(y, row, 0, lo), 4, width, length, moments)


@compiled
def evaluate(
    x, stride, targets, filters, bias, first, last, block, v, m, y, out, shortcut, has_shortcut,
    relu,
):  # fmt: skip
    """out = relu(conv(x) + bias + shortcut); y (4, W, block K) is scratch for one row of tiles."""
    c, k, width = filters.shape[1], filters.shape[2], y.shape[1]
    scale = np.ones(k, np.float32)
    for start in range(first, last, block):
        images = min(block, last - start)
        lo, length = start * k, images * k
        for row in range(0, (x.shape[0] - 2) // stride, 4):
            _input_transform(stride, x, row, start * c, (start + images) * c, v)
            multiply(v, filters, m, targets, width // 4 * images)
            _output_transform(stride, m, y, 0, 0, length)
            normalize(
                Region(y, 0, 0, 0), _moved(out, row, lo), _moved(shortcut, row, lo), has_shortcut,
                4, width, length, scale, bias, relu,
            )  # fmt: skip


@compiled
def evaluate_two(
    x, stride, targets, filters, bias, v, m, relu,
    between, next_targets, next_filters, next_bias, next_v, next_m, next_relu,
    first, last, block, y, out, shortcut, has_shortcut,
):  # fmt: skip
    """out = relu(conv(relu(conv(x) + bias)) + bias + shortcut); `between` (H + 2, W + 2, block K)
    is scratch for the first one's output."""
    between[0] = 0
    between[-1] = 0
    between[:, 0] = 0
    between[:, -1] = 0
    c, k = next_filters.shape[1], next_filters.shape[2]
    for start in range(first, last, block):
        stop = min(start + block, last)
        inside = Region(between, 1, 1, -start * c)
        evaluate(
            x, stride, targets, filters, bias, start, stop, block, v, m, y, inside, inside, False,
            relu,
        )  # fmt: skip
        evaluate(
            between, 1, next_targets, next_filters, next_bias, 0, stop - start, block, next_v,
            next_m, y, _moved(out, 0, start * k), _moved(shortcut, 0, start * k), has_shortcut,
            next_relu,
        )  # fmt: skip


@compiled
def differentiate(
    pixels, height, targets, first, last, block, v, m, chunk, grad, y, coefficients, scale, shift,
    grad_filters, grad_x, turned,
):  # fmt: skip
    """The gradients of the filters, summed over the thread's images, and of the input; stride 1.

    pixels: the input, a region of H = `height` rows. grad_y = a g + b y + c, as `input_gradient`,
    goes into chunk (6, W + 2, block K), four rows at a time with the pixels around them. grad_x
    (H, W, N C) is empty if nobody needs it. `turned` are the turned filters (36, K, C).
    """
    c, k, width = grad_filters.shape[1], grad_filters.shape[2], chunk.shape[1] - 2
    chunk[:, 0] = 0
    chunk[:, -1] = 0
    for start in range(first, last, block):
        images = min(block, last - start)
        lo, hi, length = start * c, (start + images) * c, images * k
        rows = width // 4 * images
        for row in range(0, height, 4):
            made = row  # rows of grad_y that are in the chunk already end before this one
            if row == 0:
                chunk[0] = 0
            else:
                chunk[:2] = chunk[4:]
                made += 1
            end = min(row + 5, height)
            input_gradient(
                _moved(grad, made, start * k), _moved(y, made, start * k),
                Region(chunk, made - row + 1, 1, 0), end - made, width, length,
                coefficients, scale, shift,
            )  # fmt: skip
            if end == height:
                chunk[5] = 0
            output_adjoint(_moved(pixels, row, lo), width, hi - lo, v)
            input_transform(chunk, 0, 0, length, m)
            add_products(v, m, targets, rows, grad_filters, start == first and row == 0)
            if grad_x.size:
                multiply_back(m, turned, v, targets, rows)
                output_transform(v, grad_x, row, lo, hi)


@compiled
def differentiate_strided(
    x, targets, first, last, block, v, m, chunk, grad, y, coefficients, scale, shift,
    grad_filters, grad_x, turned,
):  # fmt: skip
    """The same with stride 2, from the padded input x and to that of the padded input.

    The chunk is (4, W, block K); `turned` are the filters (81, K, C).
    """
    c, k, width = grad_filters.shape[1], grad_filters.shape[2], chunk.shape[1]
    for start in range(first, last, block):
        images = min(block, last - start)
        lo, hi, length = start * c, (start + images) * c, images * k
        rows = width // 4 * images
        for row in range(0, (x.shape[0] - 2) // 2, 4):
            input_gradient(
                _moved(grad, row, start * k), _moved(y, row, start * k), Region(chunk, 0, 0, 0),
                4, width, length, coefficients, scale, shift,
            )  # fmt: skip
            strided.output_adjoint(chunk, 0, 0, length, m)
            strided.input_transform(x, 2 * row, lo, hi, v)
            add_products(v, m, targets, rows, grad_filters, start == first and row == 0)
            if grad_x.size:
                multiply_back(m, turned, v, targets, rows)
                reached = 0 if row == 0 else 1  # by the row of tiles before
                grad_x[2 * row + reached : 2 * row + 9, :, lo:hi] = 0
                strided.input_adjoint(v, grad_x, 2 * row, lo, hi)
