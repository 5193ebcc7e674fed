"""Matrix products in the sizes that BLAS is fastest at.

OpenBLAS copies both factors of a product into blocks before it multiplies. For small products that
costs more than it brings, so on machines with AVX-512 it has a second way that reads them where
they are; it takes that way up to a million multiplications. So a product of many rows is done a few
rows at a time: 64 channels to 64, 512 rows of each of 36 positions, two threads on two Zen 4 cores:
190 to 205 GFLOP/s against 165.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import threadpoolctl

_SMALL = 1_000_000  # multiplications
_COLUMNS = 1024  # of a product with one of Winograd's matrices
_FEWEST_ROWS = 12  # with fewer, each product reads too much of the second factor for what it does
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
    """out (P, R, K) = a (P, R, C) @ b (P, C, K), some rows at a time if that is faster.

    The second way is slow where b is a transposed view, so that is not cut up.
    """
    positions, count, inner = a.shape
    rows = fast_rows(inner, b.shape[2])
    if rows is None or rows >= count or b.strides[2] != b.itemsize:
        np.matmul(a, b, out=out)
        return
    whole = count // rows
    even = whole * rows
    np.matmul(
        a[:, :even].reshape(positions, whole, rows, inner),
        b[:, None],
        out=out[:, :even].reshape(positions, whole, rows, b.shape[2]),
    )
    if even < count:
        np.matmul(a[:, even:], b, out=out[:, even:])


def transform(matrix: np.ndarray, a: np.ndarray, out: np.ndarray) -> None:
    """out (P, ...) = matrix (P, Q) @ a (Q, ...), some values at a time if that is faster."""
    a, out = a.reshape(len(a), -1), out.reshape(len(out), -1)
    pieces, rest = divmod(a.shape[1], _COLUMNS)
    if rest or pieces < 2 or not has_small_products():
        np.matmul(matrix, a, out=out)
    else:
        a, out = (v.reshape(len(v), pieces, _COLUMNS).transpose(1, 0, 2) for v in (a, out))
        np.matmul(matrix, a, out=out)
