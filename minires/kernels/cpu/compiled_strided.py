"""The transforms of `strided`, compiled like those of `compiled`: one tile row at a time.

Planes: the input has 81 (even rows with even and odd columns, 25 and 20; odd rows with both, 20 and
16), the output 25. Half a transform stays in the first-level cache between the two axes.
"""

from __future__ import annotations

import numpy as np

from minires.kernels.cpu.compiled import BLOCK, compiled

_TWO, _THREE, _FOUR, _EIGHT = (np.float32(v) for v in (2, 3, 4, 8))


@compiled
def _four(d0, d1, d2, d3):
    """B^T d without its last row, which alone needs the fifth number: four to four."""
    e, f = d3 - d2, d3 - d1
    return _TWO * (d0 - d2) + f, e - _TWO * d1, e + _TWO * (d1 - d2), f


@compiled
def _fifth(d1, d2, d3, d4):
    """The last row of B^T d."""
    return d4 - d2 - _TWO * (d3 - d1)


@compiled
def _four_adjoint(t0, t1, t2, t3):
    """The transpose of `_four`."""
    return (
        _TWO * t0,
        _TWO * (t2 - t1) - t0 - t3,
        -_TWO * t0 - t1 - _THREE * t2,
        t0 + t1 + t2 + t3,
    )


@compiled
def _output_1d(m0, m1, m2, m3, m4):
    """A^T m: five numbers to four."""
    p, q = m1 + m2, m1 - m2
    return m0 + p + m3, q + _TWO * m3, p + _FOUR * m3, q + _EIGHT * m3 + m4


@compiled
def _output_adjoint_1d(y0, y1, y2, y3):
    """A y: four numbers to five."""
    p, q = y0 + y2, y1 + y3
    return y0, p + q, p - q, y0 + _TWO * y1 + _FOUR * y2 + _EIGHT * y3, y3


@compiled
def input_transform(x, row, lo, hi, planes):
    """planes (81) = B^T d B of each phase, from row `row` of the padded x (H + 2, W + 2, N C)."""
    tiles, length = (x.shape[1] - 2) // 8, hi - lo
    half = np.empty((45, BLOCK), np.float32)
    for tile in range(tiles):
        for start in range(lo, hi, BLOCK):
            stop = min(start + BLOCK, hi)
            n, at = stop - start, tile * length + start - lo
            for odd in range(2):
                for j in range(9):
                    c, r = 8 * tile + j, row + odd
                    d0, d1 = x[r, c, start:stop], x[r + 2, c, start:stop]
                    d2, d3 = x[r + 4, c, start:stop], x[r + 6, c, start:stop]
                    h0, h1, h2, h3 = half[j], half[9 + j], half[18 + j], half[27 + j]
                    for k in range(n):
                        h0[k], h1[k], h2[k], h3[k] = _four(d0[k], d1[k], d2[k], d3[k])
                    if odd == 0:
                        d4, h4 = x[r + 8, c, start:stop], half[36 + j]
                        for k in range(n):
                            h4[k] = _fifth(d1[k], d2[k], d3[k], d4[k])
                for i in range(5 - odd):
                    first, h = 45 * odd + 5 * i, 9 * i
                    _transform_line(half, h, planes, first, at, n)
                    h0, h1, h2, h3, h4 = half[h], half[h + 2], half[h + 4], half[h + 6], half[h + 8]
                    v = planes[first + 4, at : at + n]
                    for k in range(n):
                        v[k] = _fifth(h1[k], h2[k], h3[k], h4[k])
                    _transform_line(half, h + 1, planes, 45 * odd + 5 * (5 - odd) + 4 * i, at, n)


@compiled
def _transform_line(half, h, planes, first, at, n):
    """Four planes from every second line of `half` from `h` on."""
    h0, h1, h2, h3 = half[h], half[h + 2], half[h + 4], half[h + 6]
    v0, v1 = planes[first, at : at + n], planes[first + 1, at : at + n]
    v2, v3 = planes[first + 2, at : at + n], planes[first + 3, at : at + n]
    for k in range(n):
        v0[k], v1[k], v2[k], v3[k] = _four(h0[k], h1[k], h2[k], h3[k])


@compiled
def output_transform(planes, y, row, lo, hi):
    """y (P, Q, N K) = A^T m A for one tile row of outputs; m has 25 planes."""
    tiles, length = y.shape[1] // 4, hi - lo
    half = np.empty((20, BLOCK), np.float32)
    for tile in range(tiles):
        for start in range(lo, hi, BLOCK):
            stop = min(start + BLOCK, hi)
            n, at = stop - start, tile * length + start - lo
            for j in range(5):
                m0, m1 = planes[j, at : at + n], planes[5 + j, at : at + n]
                m2, m3 = planes[10 + j, at : at + n], planes[15 + j, at : at + n]
                m4 = planes[20 + j, at : at + n]
                h0, h1, h2, h3 = half[j], half[5 + j], half[10 + j], half[15 + j]
                for k in range(n):
                    h0[k], h1[k], h2[k], h3[k] = _output_1d(m0[k], m1[k], m2[k], m3[k], m4[k])
            for i in range(4):
                h0, h1, h2 = half[5 * i], half[5 * i + 1], half[5 * i + 2]
                h3, h4, c = half[5 * i + 3], half[5 * i + 4], 4 * tile
                y0, y1 = y[row + i, c, start:stop], y[row + i, c + 1, start:stop]
                y2, y3 = y[row + i, c + 2, start:stop], y[row + i, c + 3, start:stop]
                for k in range(n):
                    y0[k], y1[k], y2[k], y3[k] = _output_1d(h0[k], h1[k], h2[k], h3[k], h4[k])


@compiled
def output_adjoint(y, row, lo, hi, planes):
    """planes (25) = A g A^T for one tile row; y (P, Q, N K) holds g."""
    tiles, length = y.shape[1] // 4, hi - lo
    half = np.empty((20, BLOCK), np.float32)
    for tile in range(tiles):
        for start in range(lo, hi, BLOCK):
            stop = min(start + BLOCK, hi)
            n, at = stop - start, tile * length + start - lo
            for j in range(4):
                c = 4 * tile + j
                y0, y1 = y[row, c, start:stop], y[row + 1, c, start:stop]
                y2, y3 = y[row + 2, c, start:stop], y[row + 3, c, start:stop]
                h0, h1, h2 = half[j], half[4 + j], half[8 + j]
                h3, h4 = half[12 + j], half[16 + j]
                for k in range(n):
                    h0[k], h1[k], h2[k], h3[k], h4[k] = _output_adjoint_1d(
                        y0[k], y1[k], y2[k], y3[k]
                    )
            for i in range(5):
                h0, h1, h2, h3 = half[4 * i], half[4 * i + 1], half[4 * i + 2], half[4 * i + 3]
                p = 5 * i
                m0, m1 = planes[p, at : at + n], planes[p + 1, at : at + n]
                m2, m3 = planes[p + 2, at : at + n], planes[p + 3, at : at + n]
                m4 = planes[p + 4, at : at + n]
                for k in range(n):
                    m0[k], m1[k], m2[k], m3[k], m4[k] = _output_adjoint_1d(
                        h0[k], h1[k], h2[k], h3[k]
                    )


@compiled
def input_adjoint(planes, x, row, lo, hi):
    """Add B z B^T of each phase, for one tile row, to the padded array x (H + 2, W + 2, N C)."""
    tiles, length = (x.shape[1] - 2) // 8, hi - lo
    half = np.empty((45, BLOCK), np.float32)
    for tile in range(tiles):
        for start in range(lo, hi, BLOCK):
            stop = min(start + BLOCK, hi)
            n, at = stop - start, tile * length + start - lo
            for odd in range(2):
                for i in range(5 - odd):  # along a row: planes of positions to 9 columns
                    first, h = 45 * odd + 5 * i, 9 * i
                    _adjoint_line(planes, first, at, n, half, h)
                    _add_fifth(
                        planes[first + 4, at : at + n],
                        half[h + 2], half[h + 4], half[h + 6], half[h + 8], n, True,
                    )  # fmt: skip
                    _adjoint_line(planes, 45 * odd + 5 * (5 - odd) + 4 * i, at, n, half, h + 1)
                for j in range(9):
                    c, r = 8 * tile + j, row + odd
                    x0, x1 = x[r, c, start:stop], x[r + 2, c, start:stop]
                    x2, x3 = x[r + 4, c, start:stop], x[r + 6, c, start:stop]
                    h0, h1, h2, h3 = half[j], half[9 + j], half[18 + j], half[27 + j]
                    for k in range(n):
                        a0, a1, a2, a3 = _four_adjoint(h0[k], h1[k], h2[k], h3[k])
                        x0[k] += a0
                        x1[k] += a1
                        x2[k] += a2
                        x3[k] += a3
                    if odd == 0:
                        _add_fifth(half[36 + j], x1, x2, x3, x[r + 8, c, start:stop], n, False)


@compiled
def _adjoint_line(planes, first, at, n, half, h):
    """Every second line of `half` from `h` on, from four planes."""
    v0, v1 = planes[first, at : at + n], planes[first + 1, at : at + n]
    v2, v3 = planes[first + 2, at : at + n], planes[first + 3, at : at + n]
    h0, h1, h2, h3 = half[h], half[h + 2], half[h + 4], half[h + 6]
    for k in range(n):
        h0[k], h1[k], h2[k], h3[k] = _four_adjoint(v0[k], v1[k], v2[k], v3[k])


@compiled
def _add_fifth(t, d1, d2, d3, d4, n, fresh):
    """Add the transpose of `_fifth`; d4 is set, not added to, if `fresh`."""
    for k in range(n):
        d1[k] += _TWO * t[k]
        d2[k] -= t[k]
        d3[k] -= _TWO * t[k]
    if fresh:
        for k in range(n):
            d4[k] = t[k]
    else:
        for k in range(n):
            d4[k] += t[k]
