"""Matrix products in the sizes that BLAS is fastest at.

OpenBLAS copies both factors of a product into blocks before it multiplies. For small products that
costs more than it brings, so on machines with AVX-512 it has a second way that reads them where
they are; it takes that way up to a million multiplications. So a large product is cut into pieces
of less: some rows of the first factor times some columns of the second.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import threadpoolctl

from minires.kernels.cpu.buffers import Workspace

_SMALL = 1_000_000  # multiplications, up to which BLAS takes the second way
_WIDTH = 64  # columns of a piece
_FEWEST = 8  # rows of a piece; with fewer, each reads too much of the second factor
_SUM_HEIGHT, _SUM_WIDTHS = 32, (128, 64, 32)  # rows and columns of a piece of a sum over many rows
_FEWEST_SUMMED = 64  # rows that a piece adds up; with fewer, adding the pieces takes too long
_COLUMNS = 1024  # of a product with one of Winograd's matrices
_FEWEST_ROWS = 12  # the same where all columns are taken
_DIRECT = {"SkylakeX", "Cooperlake", "SapphireRapids"}  # architectures with the second way


@cache
def has_small_products() -> bool:
    """Whether NumPy's BLAS multiplies small matrices where they are."""
    return any(
        library.get("internal_api") == "openblas" and library.get("architecture") in _DIRECT
        for library in threadpoolctl.threadpool_info()
    )


def fast_rows(inner: int, columns: int) -> int | None:
    """With how many rows (rows, inner) @ (inner, columns) is fastest; None if more are better."""
    rows = _SMALL // (inner * columns)
    return rows if rows >= _FEWEST_ROWS and has_small_products() else None


def multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out (P, R, K) = a (P, R, C) @ b (P, C, K), in pieces if that is faster.

    The second way is slow where b is a transposed view, so that is not cut up.
    """
    count, inner = a.shape[1:]
    width = _part(b.shape[2], _WIDTH)
    rows = 1 << (_SMALL // (inner * width)).bit_length() >> 1  # a power of two leaves less over
    small = count * inner * b.shape[2] <= _SMALL
    if small or rows < _FEWEST or b.strides[2] != b.itemsize or not has_small_products():
        np.matmul(a, b, out=out)
        return
    rows = min(rows, count)
    even = count // rows * rows
    _multiply(a[:, :even], b, out[:, :even], rows, width)
    if even < count:
        _multiply(a[:, even:], b, out[:, even:], count - even, width)


def _multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray, rows: int, width: int) -> None:
    """`multiply` with `rows` rows and `width` columns at a time, of which there are multiples."""
    positions, count, inner = a.shape
    columns = b.shape[2] // width
    np.matmul(
        a.reshape(positions, 1, count // rows, rows, inner),
        b.reshape(positions, inner, columns, 1, width).transpose(0, 2, 3, 1, 4),
        out=out.reshape(positions, count // rows, rows, columns, width).transpose(0, 3, 1, 2, 4),
    )


def multiply_turned(a: np.ndarray, b: np.ndarray, out: np.ndarray, ws: Workspace) -> None:
    """out (P, C, K) = a^T b, the sum over the rows of a (P, R, C) and b (P, R, K).

    In pieces of a few rows and columns of the result. Where there are many rows, a piece sums up
    some of them, and the sums are added.
    """
    positions, count, c = a.shape
    k, height = b.shape[2], _part(c, _SUM_HEIGHT)
    fits = (w for w in _SUM_WIDTHS if k % w == 0 and count * height * w <= _SMALL)
    width, sums = next(fits, _part(k, _SUM_WIDTHS[-1])), 1
    while count * height * width > sums * _SMALL:
        sums *= 2
    rows, rest = divmod(count, sums)
    if rest or sums > 1 and rows < _FEWEST_SUMMED or not has_small_products():
        np.matmul(a.transpose(0, 2, 1), b, out=out)
        return
    across, down = c // height, k // width
    target = out[:, None] if sums == 1 else ws.get("sums", (positions, sums, c, k))
    np.matmul(
        a.reshape(positions, sums, rows, across, 1, height).transpose(0, 1, 3, 4, 5, 2),
        b.reshape(positions, sums, rows, 1, down, width).transpose(0, 1, 3, 4, 2, 5),
        out=target.reshape(positions, sums, across, height, down, width).swapaxes(3, 4),
    )
    if sums > 1:
        np.add.reduce(target, axis=1, out=out)


def _part(size: int, most: int) -> int:
    """`most` where that divides `size`, else `size`: how much of an axis is taken at a time."""
    return most if size % most == 0 else size


def transform(matrix: np.ndarray, a: np.ndarray, out: np.ndarray) -> None:
    """out (P, ...) = matrix (P, Q) @ a (Q, ...), some values at a time if that is faster."""
    a, out = a.reshape(len(a), -1), out.reshape(len(out), -1)
    pieces, rest = divmod(a.shape[1], _COLUMNS)
    if rest or pieces < 2 or not has_small_products():
        np.matmul(matrix, a, out=out)
    else:
        a, out = (v.reshape(len(v), pieces, _COLUMNS).transpose(1, 0, 2) for v in (a, out))
        np.matmul(matrix, a, out=out)
