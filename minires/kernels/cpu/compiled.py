"""The Winograd transforms compiled by numba: both axes of a tile in one pass through the L1 cache.

NumPy runs one vector operation at a time and writes every intermediate result to memory. Here a
block of one tile (6x6 positions of 128 values, 18 KiB) stays in the first-level cache between the
two axes: each value is loaded once and stored once. Same meaning as the functions of `winograd`.

Arrays: an activation is (H, W, N C) in one piece, of which a call works on one tile row (from row
`row` on) and on the values `lo` to `hi` of the last axis, one thread's images. Planes are
(36, T (hi - lo) + padding) in one piece.

What makes the compiler use vector instructions: arrays whose last axis is known to be contiguous;
slices taken before the inner loop, which then runs over a plain index; and no array read under one
name and written under another.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
from numba import config, njit

# Twelve slices in one loop are more than LLVM checks for overlap by default; without the checks it
# would not vectorise.
llvm.set_option("minires", "-runtime-memory-check-threshold=4000")
llvm.set_option("minires", "-memory-check-merge-threshold=4000")

BLOCK = 128


def _source_cache() -> str:
    """A folder for compiled code that is named after all sources of it.

    numba looks only at the file that a function is in, not at those of the functions it calls. It
    knows by itself which processor and which numba the code was compiled for.
    """
    here = Path(__file__).parent
    text = b"".join(path.read_bytes() for path in sorted(here.glob("compiled*.py")))
    folder = Path(config.CACHE_DIR or here / "__pycache__")
    return str(folder / hashlib.sha256(text).hexdigest()[:16])


_CACHE = _source_cache()


# All of "fast math" but the reordering of sums: a function that is compiled into its caller and
# again on its own would add in two orders, and what was in the cache would say which of them runs.
_MATH = {"contract", "nsz", "nnan", "ninf", "arcp"}


def compiled(function):
    """Compile `function` when it is first called, without Python's lock, and keep it on disk."""
    usual, config.CACHE_DIR = config.CACHE_DIR, _CACHE
    try:
        return njit(nogil=True, fastmath=_MATH, cache=True, error_model="numpy")(function)
    finally:
        config.CACHE_DIR = usual


_TWO, _FOUR = np.float32(2), np.float32(4)


@compiled
def _input_1d(d0, d1, d2, d3, d4, d5):
    """B^T d: six numbers to six."""
    c = d4 - d2
    e = (d3 - d1) * _TWO
    a = d4 - _FOUR * d2
    b = d3 - _FOUR * d1
    return _FOUR * (d0 - d2) + c, a + b, a - b, c + e, c - e, d5 - d3 - _TWO * e


@compiled
def _output_1d(m0, m1, m2, m3, m4, m5):
    """A^T m: six numbers to four."""
    p, q = m1 + m2, m1 - m2
    r, s = m3 + m4, (m3 - m4) * _TWO
    return m0 + p + r, q + s, p + _FOUR * r, q + _FOUR * s + m5


@compiled
def _output_adjoint_1d(y0, y1, y2, y3):
    """A y: four numbers to six."""
    p, q = y0 + y2, y1 + y3
    r, s = y0 + _FOUR * y2, _TWO * (y1 + _FOUR * y3)
    return y0, p + q, p - q, r + s, r - s, y3


@compiled
def input_transform(x, row, lo, hi, planes):
    """planes = B^T d B for one tile row of x (H + 2, W + 2, N C), which has a border."""
    tiles, length = (x.shape[1] - 2) // 4, hi - lo
    half = np.empty((36, BLOCK), np.float32)
    for tile in range(tiles):
        for start in range(lo, hi, BLOCK):
            stop = min(start + BLOCK, hi)
            n = stop - start
            for j in range(6):
                c = 4 * tile + j
                d0, d1 = x[row, c, start:stop], x[row + 1, c, start:stop]
                d2, d3 = x[row + 2, c, start:stop], x[row + 3, c, start:stop]
                d4, d5 = x[row + 4, c, start:stop], x[row + 5, c, start:stop]
                h0, h1, h2 = half[j], half[6 + j], half[12 + j]
                h3, h4, h5 = half[18 + j], half[24 + j], half[30 + j]
                for k in range(n):
                    h0[k], h1[k], h2[k], h3[k], h4[k], h5[k] = _input_1d(
                        d0[k], d1[k], d2[k], d3[k], d4[k], d5[k]
                    )
            at = tile * length + start - lo
            for i in range(0, 36, 6):
                h0, h1, h2 = half[i], half[i + 1], half[i + 2]
                h3, h4, h5 = half[i + 3], half[i + 4], half[i + 5]
                v0, v1 = planes[i, at : at + n], planes[i + 1, at : at + n]
                v2, v3 = planes[i + 2, at : at + n], planes[i + 3, at : at + n]
                v4, v5 = planes[i + 4, at : at + n], planes[i + 5, at : at + n]
                for k in range(n):
                    v0[k], v1[k], v2[k], v3[k], v4[k], v5[k] = _input_1d(
                        h0[k], h1[k], h2[k], h3[k], h4[k], h5[k]
                    )


@compiled
def output_transform(planes, y, row, lo, hi):
    """y (H, W, N C) = A^T m A for one tile row."""
    tiles, length = y.shape[1] // 4, hi - lo
    half = np.empty((24, BLOCK), np.float32)
    for tile in range(tiles):
        for start in range(lo, hi, BLOCK):
            stop = min(start + BLOCK, hi)
            n = stop - start
            at = tile * length + start - lo
            for j in range(6):
                m0, m1 = planes[j, at : at + n], planes[6 + j, at : at + n]
                m2, m3 = planes[12 + j, at : at + n], planes[18 + j, at : at + n]
                m4, m5 = planes[24 + j, at : at + n], planes[30 + j, at : at + n]
                h0, h1, h2, h3 = half[j], half[6 + j], half[12 + j], half[18 + j]
                for k in range(n):
                    h0[k], h1[k], h2[k], h3[k] = _output_1d(
                        m0[k], m1[k], m2[k], m3[k], m4[k], m5[k]
                    )
            c = 4 * tile
            for i in range(4):
                h0, h1, h2 = half[6 * i], half[6 * i + 1], half[6 * i + 2]
                h3, h4, h5 = half[6 * i + 3], half[6 * i + 4], half[6 * i + 5]
                y0, y1 = y[row + i, c, start:stop], y[row + i, c + 1, start:stop]
                y2, y3 = y[row + i, c + 2, start:stop], y[row + i, c + 3, start:stop]
                for k in range(n):
                    y0[k], y1[k], y2[k], y3[k] = _output_1d(
                        h0[k], h1[k], h2[k], h3[k], h4[k], h5[k]
                    )


@compiled
def output_adjoint(y, columns, length, planes):
    """planes = A y A^T for one tile row of the region y, `columns` pixels of `length` values."""
    half = np.empty((24, BLOCK), np.float32)
    g, row = y.array, y.row
    for tile in range(columns // 4):
        for start in range(0, length, BLOCK):
            n = min(BLOCK, length - start)
            lo, hi = y.lo + start, y.lo + start + n
            for j in range(4):
                c = y.column + 4 * tile + j
                y0, y1 = g[row, c, lo:hi], g[row + 1, c, lo:hi]
                y2, y3 = g[row + 2, c, lo:hi], g[row + 3, c, lo:hi]
                h0, h1, h2 = half[j], half[4 + j], half[8 + j]
                h3, h4, h5 = half[12 + j], half[16 + j], half[20 + j]
                for k in range(n):
                    h0[k], h1[k], h2[k], h3[k], h4[k], h5[k] = _output_adjoint_1d(
                        y0[k], y1[k], y2[k], y3[k]
                    )
            at = tile * length + start
            for i in range(6):
                h0, h1, h2, h3 = half[4 * i], half[4 * i + 1], half[4 * i + 2], half[4 * i + 3]
                p = 6 * i
                m0, m1 = planes[p, at : at + n], planes[p + 1, at : at + n]
                m2, m3 = planes[p + 2, at : at + n], planes[p + 3, at : at + n]
                m4, m5 = planes[p + 4, at : at + n], planes[p + 5, at : at + n]
                for k in range(n):
                    m0[k], m1[k], m2[k], m3[k], m4[k], m5[k] = _output_adjoint_1d(
                        h0[k], h1[k], h2[k], h3[k]
                    )
