"""The choice between compiled loops and NumPy ones: the same functions, by the same names.

With the optional extra `fast` (numba) the memory-bound loops are compiled; without it NumPy does
them. Everything else in this package calls the functions of this module.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minires.kernels.cpu import elementwise, winograd
from minires.kernels.cpu.regions import Region

NUMPY_PLANE_BYTES = 5_000_000

NONE = np.empty(0, np.float32)
"""Stands for "no ReLU" where a scale is expected."""

_ONE, _ZERO = np.ones(1, np.float32), np.zeros(1, np.float32)


def _load():
    if os.environ.get("MINIRES_NO_NUMBA"):
        return None, None, "switched off by MINIRES_NO_NUMBA"
    try:
        from minires.kernels.cpu import compiled, compiled_elementwise
    except ImportError as error:
        return None, None, f'not installed ({error.name}); pip install -e ".[fast]"'
    return compiled, compiled_elementwise, None


_transforms, _passes, why_not_compiled = _load()
"""`why_not_compiled` is None when the loops are compiled, else the reason in a few words."""


def compiled_in_use() -> bool:
    """Whether the compiled loops run."""
    return _transforms is not None


def use_compiled(wanted: bool) -> None:
    """Switch between compiled and NumPy loops, for benchmarks and tests."""
    global _transforms, _passes
    _transforms, _passes, _ = _load() if wanted else (None, None, None)


def units():
    """`compiled_units`, or None where NumPy does the loops."""
    if _transforms is None:
        return None
    from minires.kernels.cpu import compiled_units

    return compiled_units


def tile_rows(available: int, plane_bytes: int) -> int:
    """How many rows of tiles to transform at once, of `available`.

    `plane_bytes` is what the 36 planes of one row take. Compiled loops take one row of a few
    images, which fits the L2 cache. NumPy takes more: threads that do short vector operations wait
    for the interpreter's lock more than they compute.
    """
    if _transforms is not None:
        return 1
    return max(1, min(available, NUMPY_PLANE_BYTES // plane_bytes))


def takes_whole_rows(plane_bytes: int) -> bool:
    """Whether threads share the rows of an image: the planes of one row of tiles are not large."""
    return _transforms is None and plane_bytes <= NUMPY_PLANE_BYTES


def input_transform(x, row, tile_rows, lo, hi, planes, ws) -> None:
    """`winograd.input_transform`."""
    if _transforms is None:
        winograd.input_transform(x, row, tile_rows, lo, hi, planes, ws)
    else:
        _transforms.input_transform(x, row, lo, hi, planes)


def output_transform(planes, y, row, tile_rows, lo, hi, ws) -> None:
    """`winograd.output_transform`."""
    if _transforms is None:
        winograd.output_transform(planes, y, row, tile_rows, lo, hi, ws)
    else:
        _transforms.output_transform(planes, y, row, lo, hi)


def output_adjoint(y: Region, tile_rows, columns, length, planes, ws) -> None:
    """`winograd.output_adjoint`."""
    if _transforms is None:
        winograd.output_adjoint(y, tile_rows, columns, length, planes, ws)
    else:
        _transforms.output_adjoint(y, columns, length, planes)


def add_moments(y: Region, rows, columns, length, moments, ws) -> None:
    """`elementwise.add_moments`."""
    if _passes is None:
        elementwise.add_moments(y, rows, columns, length, moments, ws)
    else:
        _passes.add_moments(y, rows, columns, length, moments)


def normalize(y, out, shortcut, rows, columns, length, scale, shift, relu, ws) -> None:
    """`elementwise.normalize`."""
    if _passes is None:
        elementwise.normalize(y, out, shortcut, rows, columns, length, scale, shift, relu, ws)
    else:
        extra = y if shortcut is None else shortcut
        _passes.normalize(
            y, out, extra, shortcut is not None, rows, columns, length, scale, shift, relu
        )


def finish(y, out, shortcut, rows, columns, length, relu, ws) -> None:
    """`elementwise.finish`."""
    if _passes is None:
        elementwise.finish(y, out, shortcut, rows, columns, length, relu, ws)
    else:
        added, extra = shortcut is not None, y if shortcut is None else shortcut
        _passes.normalize(y, out, extra, added, rows, columns, length, _ONE, _ZERO, relu)


def gradient_sums(
    grad, y, out, masked, rows, columns, length, mean, scale, shift, sums, ws
) -> None:
    """`elementwise.gradient_sums`."""
    if _passes is None:
        elementwise.gradient_sums(
            grad, y, out, masked, rows, columns, length, mean, scale, shift, sums, ws
        )
    elif out is not None:
        _passes.gradient_sums_from_out(grad, y, out, masked, rows, columns, length, mean, sums)
    else:
        _passes.gradient_sums(grad, y, rows, columns, length, mean, scale, shift, sums)


def input_gradient(grad, y, target, rows, columns, length, coefficients, scale, shift, ws) -> None:
    """`elementwise.input_gradient`."""
    if _passes is None:
        elementwise.input_gradient(
            grad, y, target, rows, columns, length, coefficients, scale, shift, ws
        )
    else:
        _passes.input_gradient(grad, y, target, rows, columns, length, coefficients, scale, shift)


def add(a: Region, b: Region, out: Region, rows, columns, length) -> None:
    """out = a + b."""
    if _passes is None:
        for h in range(rows):
            np.add(
                *(
                    r.array[r.row + h, r.column : r.column + columns, r.lo : r.lo + length]
                    for r in (a, b, out)
                )
            )
    else:
        _passes.add(a, b, out, rows, columns, length)


def gather_columns(x, row, lo, stride, side, columns) -> None:
    """columns (P, Q, n, side^2, C) = the windows of P output rows of the padded x (H', W', N C).

    The window of output (p, q) starts at row `row + stride p` and column `stride q` of x; the
    images from value `lo`.
    """
    rows, _, images, _, c = columns.shape
    if _passes is None:
        windows = _windows(x, row, lo, stride, side, columns.shape)
        np.copyto(columns.reshape(windows.shape), windows)
    else:
        for r in range(rows):
            at = row + stride * r
            _passes.gather_columns(x, at, lo, images, c, stride, side, columns[r])


def scatter_columns(columns, x, row, lo, stride, side) -> None:
    """Add columns (P, Q, n, side^2, C) to the windows of P output rows of x (H', W', N C)."""
    rows, _, images, _, c = columns.shape
    if _passes is None:
        windows = _windows(x, row, lo, stride, side, columns.shape)
        values = columns.reshape(windows.shape)
        for i, j in np.ndindex(side, side):  # windows overlap, the pixels of one tap do not
            target = windows[:, :, :, i, j]
            np.add(target, values[:, :, :, i, j], out=target)
    else:
        for r in range(rows):
            at = row + stride * r
            _passes.scatter_columns(columns[r], x, at, lo, images, c, stride, side)


def _windows(x, row, lo, stride, side, shape) -> np.ndarray:
    """The windows as a view (P, Q, n, side, side, C) of x."""
    rows, q, images, _, c = shape
    line, pixel, value = x.strides
    strides = (stride * line, stride * pixel, c * value, line, pixel, value)
    return as_strided(x[row:, :, lo:], (rows, q, images, side, side, c), strides)
