"""Batch norm's passes over an activation, compiled: `elementwise` with its loops joined."""

from __future__ import annotations

import numpy as np

from minires.kernels.cpu.compiled import compiled

_ZERO = np.float32(0)


@compiled
def _block(channels, length):
    """How many values are worked on together: whole groups of channels, at least 128 if possible.

    The answer divides `length`.
    """
    block = channels
    while block < 128 and length % (2 * block) == 0:
        block *= 2
    return block


@compiled
def _tiled(vector, size):
    out = np.empty(size, np.float32)
    for k in range(size):
        out[k] = vector[k % vector.size]
    return out


@compiled
def _folded(values, channels):
    out = np.zeros(channels, np.float64)
    for k in range(values.size):
        out[k % channels] += values[k]
    return out


@compiled
def add_moments(y, rows, columns, length, moments):
    """Take a chunk into `moments` (3, K): count, mean, sum of squared deviations."""
    channels = moments.shape[1]
    block = _block(channels, length)
    sums = np.zeros(block, np.float32)
    for h in range(rows):
        for w in range(columns):
            for s in range(y.lo, y.lo + length, block):
                v = y.array[y.row + h, y.column + w, s : s + block]
                for k in range(block):
                    sums[k] += v[k]
    count = rows * columns * (length // channels)
    mean = _folded(sums, channels) / count
    rounded = mean.astype(np.float32)
    centre = _tiled(rounded, block)
    squares = np.zeros(block, np.float32)
    for h in range(rows):
        for w in range(columns):
            for s in range(y.lo, y.lo + length, block):
                v = y.array[y.row + h, y.column + w, s : s + block]
                for k in range(block):
                    d = v[k] - centre[k]
                    squares[k] += d * d
    square = _folded(squares, channels)
    before = moments[0, 0]
    total = before + count
    for k in range(channels):
        off = mean[k] - rounded[k]
        delta = mean[k] - moments[1, k]
        moments[2, k] += square[k] - count * off * off
        moments[2, k] += delta * delta * before * count / total
        moments[1, k] += delta * count / total
        moments[0, k] = total


@compiled
def normalize(y, out, shortcut, has_shortcut, rows, columns, length, scale, shift, relu):
    """out = y * scale + shift (+ shortcut), then ReLU if `relu`."""
    block = _block(scale.size, length)
    a, b = _tiled(scale, block), _tiled(shift, block)
    for h in range(rows):
        for w in range(columns):
            for s in range(0, length, block):
                v = y.array[y.row + h, y.column + w, y.lo + s : y.lo + s + block]
                o = out.array[out.row + h, out.column + w, out.lo + s : out.lo + s + block]
                if has_shortcut:
                    at = shortcut.lo + s
                    r = shortcut.array[shortcut.row + h, shortcut.column + w, at : at + block]
                    if relu:
                        for k in range(block):
                            o[k] = max(v[k] * a[k] + b[k] + r[k], _ZERO)
                    else:
                        for k in range(block):
                            o[k] = v[k] * a[k] + b[k] + r[k]
                elif relu:
                    for k in range(block):
                        o[k] = max(v[k] * a[k] + b[k], _ZERO)
                else:
                    for k in range(block):
                        o[k] = v[k] * a[k] + b[k]


@compiled
def gradient_sums_from_out(grad, y, out, masked, rows, columns, length, mean, sums):
    """sums += sum(g), sum(g (y - mean)) with g = grad where out > 0, stored in `masked`."""
    channels = sums.shape[1]
    block = _block(channels, length)
    centre = _tiled(mean, block)
    t0, t1 = np.zeros(block, np.float32), np.zeros(block, np.float32)
    for h in range(rows):
        for w in range(columns):
            for s in range(0, length, block):
                u = grad.array[grad.row + h, grad.column + w, grad.lo + s : grad.lo + s + block]
                v = y.array[y.row + h, y.column + w, y.lo + s : y.lo + s + block]
                o = out.array[out.row + h, out.column + w, out.lo + s : out.lo + s + block]
                at = masked.lo + s
                m = masked.array[masked.row + h, masked.column + w, at : at + block]
                for k in range(block):
                    g = u[k] if o[k] > _ZERO else _ZERO
                    m[k] = g
                    t0[k] += g
                    t1[k] += g * (v[k] - centre[k])
        sums[0] += _folded(t0, channels)
        sums[1] += _folded(t1, channels)
        t0[:] = 0
        t1[:] = 0


@compiled
def gradient_sums(grad, y, rows, columns, length, mean, scale, shift, sums):
    """sums += sum(g), sum(g (y - mean)); g is grad (only where y scale + shift > 0, if given)."""
    channels = sums.shape[1]
    block = _block(channels, length)
    centre = _tiled(mean, block)
    relu = scale.size > 0
    a = _tiled(scale if relu else mean, block)
    b = _tiled(shift if relu else mean, block)
    t0, t1 = np.zeros(block, np.float32), np.zeros(block, np.float32)
    for h in range(rows):
        for w in range(columns):
            for s in range(0, length, block):
                u = grad.array[grad.row + h, grad.column + w, grad.lo + s : grad.lo + s + block]
                v = y.array[y.row + h, y.column + w, y.lo + s : y.lo + s + block]
                if relu:
                    for k in range(block):
                        g = u[k] if v[k] * a[k] + b[k] > _ZERO else _ZERO
                        t0[k] += g
                        t1[k] += g * (v[k] - centre[k])
                else:
                    for k in range(block):
                        t0[k] += u[k]
                        t1[k] += u[k] * (v[k] - centre[k])
        sums[0] += _folded(t0, channels)
        sums[1] += _folded(t1, channels)
        t0[:] = 0
        t1[:] = 0


@compiled
def input_gradient(grad, y, target, rows, columns, length, coefficients, scale, shift):
    """target = a g + b y + c; g is grad (where y scale + shift > 0, if scale is given)."""
    block = _block(coefficients.shape[1], length)
    a, b = _tiled(coefficients[0], block), _tiled(coefficients[1], block)
    c = _tiled(coefficients[2], block)
    relu = scale.size > 0
    p = _tiled(scale, block) if relu else a
    q = _tiled(shift, block) if relu else a
    for h in range(rows):
        for w in range(columns):
            for s in range(0, length, block):
                u = grad.array[grad.row + h, grad.column + w, grad.lo + s : grad.lo + s + block]
                v = y.array[y.row + h, y.column + w, y.lo + s : y.lo + s + block]
                at = target.lo + s
                o = target.array[target.row + h, target.column + w, at : at + block]
                if relu:
                    for k in range(block):
                        g = u[k] if v[k] * p[k] + q[k] > _ZERO else _ZERO
                        o[k] = a[k] * g + b[k] * v[k] + c[k]
                else:
                    for k in range(block):
                        o[k] = a[k] * u[k] + b[k] * v[k] + c[k]


@compiled
def add(a, b, out, rows, columns, length):
    """out = a + b."""
    for h in range(rows):
        for w in range(columns):
            u = a.array[a.row + h, a.column + w, a.lo : a.lo + length]
            v = b.array[b.row + h, b.column + w, b.lo : b.lo + length]
            o = out.array[out.row + h, out.column + w, out.lo : out.lo + length]
            for k in range(length):
                o[k] = u[k] + v[k]


@compiled
def gather_columns(x, row, lo, images, channels, stride, side, columns):
    """columns (Q, images, side^2, C) = the windows of one output row of x (H', W', N C)."""
    q = columns.shape[0]
    for p in range(q):
        for image in range(images):
            at = lo + image * channels
            for i in range(side):
                for j in range(side):
                    v = x[row + i, p * stride + j, at : at + channels]
                    o = columns[p, image, i * side + j]
                    for k in range(channels):
                        o[k] = v[k]


@compiled
def scatter_columns(columns, x, row, lo, images, channels, stride, side):
    """Add columns (Q, images, side^2, C) to the windows of one output row of x (H', W', N C)."""
    q = columns.shape[0]
    for p in range(q):
        for i in range(side):
            for j in range(side):
                for image in range(images):
                    at = lo + image * channels
                    v = x[row + i, p * stride + j, at : at + channels]
                    o = columns[p, image, i * side + j]
                    for k in range(channels):
                        v[k] += o[k]
