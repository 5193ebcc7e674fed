"""Batch norm's passes over an activation, in NumPy: a few rows of pixels at a time.

Few, so that a piece is still in the cache for the next operation; several, because threads that do
short vector operations wait for the interpreter's lock more than they compute.

Each function works on `rows` rows of `columns` pixels, `length` values (images times channels) in
each. Vectors over channels are (K,) float32; sums are kept in float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minires.backend import options
from minires.kernels.cpu.buffers import Workspace
from minires.kernels.cpu.regions import Region

PIECE, SHARED_PIECE = 65_536, 262_144  # values, in a thread on its own and beside others


def _pieces(
    rows: int, columns: int, length: int, *regions: Region | None
) -> Iterator[list[np.ndarray | None]]:
    """The regions side by side, each as views (height, columns, length); None stays None."""
    values = PIECE if options.threads == 1 else SHARED_PIECE
    height = max(1, values // (columns * length))
    for first in range(0, rows, height):
        count = min(height, rows - first)
        yield [None if r is None else _view(r, first, count, columns, length) for r in regions]


def _view(region: Region, first: int, count: int, columns: int, length: int) -> np.ndarray:
    array, row, column, lo = region
    return array[row + first : row + first + count, column : column + columns, lo : lo + length]


def _tile(vector: np.ndarray, length: int) -> np.ndarray:
    return np.tile(vector, length // vector.size)


def _pixel_sum(values: np.ndarray) -> np.ndarray:
    """The sum over pixels, values (rows, columns, length): (length,) float32."""
    return np.add.reduce(values, axis=(0, 1))


def _channel_sum(totals: np.ndarray, channels: int) -> np.ndarray:
    """The sum over images, totals (length,): (channels,) float64."""
    return totals.reshape(-1, channels).sum(axis=0, dtype=np.float64)


def add_moments(
    y: Region, rows: int, columns: int, length: int, moments: np.ndarray, ws: Workspace
) -> None:
    """Take a chunk into `moments` (3, K) float64: count, mean, and sum of squared deviations.

    The chunk's own mean is found first and the deviations are taken from it; two groups combine as
    in Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm".
    """
    channels = moments.shape[1]
    count = rows * columns * (length // channels)
    totals, squares = np.zeros(length), np.zeros(length)
    for (piece,) in _pieces(rows, columns, length, y):
        totals += _pixel_sum(piece)
    mean = _channel_sum(totals, channels) / count
    shift = _tile(mean.astype(np.float32), length)
    for (piece,) in _pieces(rows, columns, length, y):
        centred = ws.get("piece", piece.shape)
        np.subtract(piece, shift, out=centred)
        squares += _pixel_sum(np.multiply(centred, centred, out=centred))
    squares = _channel_sum(squares, channels)
    squares -= count * (mean - mean.astype(np.float32)) ** 2  # the shift was rounded
    combine_moments(moments, count, mean, squares)


def combine_moments(
    moments: np.ndarray, count: float, mean: np.ndarray, squares: np.ndarray
) -> None:
    """Merge a group with `count` values, `mean` (K,) and squared deviations `squares` (K,)."""
    total = moments[0, 0] + count
    delta = mean - moments[1]
    moments[2] += squares + delta * delta * (moments[0, 0] * count / total)
    moments[1] += delta * (count / total)
    moments[0] = total


def normalize(
    y: Region,
    out: Region,
    shortcut: Region | None,
    rows: int,
    columns: int,
    length: int,
    scale: np.ndarray,
    shift: np.ndarray,
    relu: bool,
    ws: Workspace,
) -> None:
    """out = y * scale + shift (+ shortcut), then ReLU if `relu`."""
    scale, shift, zeros = _tile(scale, length), _tile(shift, length), ws.zeros(length)
    for source, target, extra in _pieces(rows, columns, length, y, out, shortcut):
        piece = ws.get("piece", source.shape)
        np.multiply(source, scale, out=piece)
        last = target if extra is None and not relu else piece
        np.add(piece, shift, out=last)
        if extra is not None:
            np.add(piece, extra, out=piece if relu else target)
        if relu:
            np.maximum(piece, zeros, out=target)


def finish(
    y: Region,
    out: Region,
    shortcut: Region | None,
    rows: int,
    columns: int,
    length: int,
    relu: bool,
    ws: Workspace,
) -> None:
    """out = y (+ shortcut), then ReLU if `relu`; y may be out itself."""
    zeros = ws.zeros(length)
    for source, target, extra in _pieces(rows, columns, length, y, out, shortcut):
        if extra is not None:
            last = ws.get("piece", source.shape) if relu else target
            source = np.add(source, extra, out=last)
        if relu:
            np.maximum(source, zeros, out=target)
        elif extra is None and y is not out:
            np.copyto(target, source)


def gradient_sums(
    grad: Region,
    y: Region,
    out: Region | None,
    masked: Region | None,
    rows: int,
    columns: int,
    length: int,
    mean: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    sums: np.ndarray,
    ws: Workspace,
) -> None:
    """Add sum(g) and sum(g (y - mean)) to sums (2, K) float64.

    g is grad where the ReLU let through, and is stored in `masked` if that is given. With `out`,
    the ReLU let through where out > 0; else with `scale`, where y * scale + shift > 0; with neither
    there was no ReLU.
    """
    channels = sums.shape[1]
    centre, affine = _tile(mean, length), [_tile(v, length) for v in (scale, shift) if v.size]
    totals, products = np.zeros(length), np.zeros(length)
    for g, values, passed, store in _pieces(rows, columns, length, grad, y, out, masked):
        piece = ws.get("piece", g.shape)
        if passed is not None or affine:
            positive = passed if passed is not None else _affine(values, *affine, piece)
            store = ws.get("piece 2", g.shape) if store is None else store
            g = np.multiply(g, positive > np.float32(0), out=store)
        totals += _pixel_sum(g)
        np.subtract(values, centre, out=piece)
        products += _pixel_sum(np.multiply(piece, g, out=piece))
    sums[0] += _channel_sum(totals, channels)
    sums[1] += _channel_sum(products, channels)


def input_gradient(
    grad: Region,
    y: Region,
    target: Region,
    rows: int,
    columns: int,
    length: int,
    coefficients: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    ws: Workspace,
) -> None:
    """target = a g + b y + c: batch norm's gradient of its input y.

    coefficients: (3, K) float32 holds a, b and c. g is grad, or, if `scale` is not empty, grad
    where y * scale + shift > 0.
    """
    a, b, c = (_tile(v, length) for v in coefficients)
    affine = [_tile(v, length) for v in (scale, shift) if v.size]
    for g, values, result in _pieces(rows, columns, length, grad, y, target):
        piece = ws.get("piece", g.shape)
        if affine:
            positive = _affine(values, *affine, piece) > np.float32(0)
            g = np.multiply(g, positive, out=ws.get("piece 2", g.shape))
        np.multiply(values, b, out=piece)
        np.add(piece, c, out=piece)
        np.multiply(g, a, out=result)
        np.add(result, piece, out=result)


def _affine(y: np.ndarray, scale: np.ndarray, shift: np.ndarray, out: np.ndarray) -> np.ndarray:
    np.multiply(y, scale, out=out)
    return np.add(out, shift, out=out)
