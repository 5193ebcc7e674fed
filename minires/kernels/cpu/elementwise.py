"""Batch norm's passes over an activation, in NumPy: a few rows of pixels at a time.

Few, so that a piece is still in the cache for the next operation; several, because threads that do
short vector operations wait for the interpreter's lock more than they compute.

Each function works on `rows` rows of `columns` pixels, `length` values (images times channels) in
each. Vectors over channels are (K,) float32; sums are kept in float64.
"""

from __future__ import annotations

import numpy as np

from minires.kernels.cpu.buffers import Workspace
from minires.kernels.cpu.regions import Region

PIECE = 131_072  # values


def _height(columns: int, length: int) -> int:
    """How many rows make a piece."""
    return max(1, PIECE // (columns * length))


def _pieces(part: Region, rows: int, columns: int, length: int) -> list[np.ndarray]:
    """The region as views (height, columns, length)."""
    array, row, column, lo = part
    height = _height(columns, length)
    return [
        array[row + h : row + min(h + height, rows), column : column + columns, lo : lo + length]
        for h in range(0, rows, height)
    ]


def _scratch(ws: Workspace, name: str, like: np.ndarray) -> np.ndarray:
    return ws.get(name, like.shape)


def _tile(vector: np.ndarray, length: int) -> np.ndarray:
    return np.tile(vector, length // vector.size)


def _channel_sum(values: np.ndarray, channels: int) -> np.ndarray:
    """The sum over pixels and images of values (rows, columns, length): (channels,) float64."""
    per_value = np.add.reduce(values, axis=(0, 1))
    return per_value.reshape(-1, channels).sum(axis=0, dtype=np.float64)


def add_moments(
    y: Region, rows: int, columns: int, length: int, moments: np.ndarray, ws: Workspace
) -> None:
    """Take a chunk into `moments` (3, K) float64: count, mean, and sum of squared deviations.

    The chunk's own mean is found first and the deviations are taken from it; two groups combine as
    in Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm".
    """
    channels = moments.shape[1]
    chunk = _pieces(y, rows, columns, length)
    count = rows * columns * (length // channels)
    mean = sum(_channel_sum(piece, channels) for piece in chunk) / count
    shift = _tile(mean.astype(np.float32), length)
    squares = np.zeros(channels)
    for piece in chunk:
        centred = _scratch(ws, "piece", piece)
        np.subtract(piece, shift, out=centred)
        np.multiply(centred, centred, out=centred)
        squares += _channel_sum(centred, channels)
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
    scale, shift = _tile(scale, length), _tile(shift, length)
    zeros = ws.zeros(length)
    sources = _pieces(y, rows, columns, length)
    targets = _pieces(out, rows, columns, length)
    extras = None if shortcut is None else _pieces(shortcut, rows, columns, length)
    for h, source in enumerate(sources):
        line = _scratch(ws, "piece", source)
        np.multiply(source, scale, out=line)
        last = targets[h] if extras is None and not relu else line
        np.add(line, shift, out=last)
        if extras is not None:
            np.add(line, extras[h], out=line if relu else targets[h])
        if relu:
            np.maximum(line, zeros, out=targets[h])


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
    """out = y (+ shortcut), then ReLU if `relu`."""
    zeros = ws.zeros(length)
    sources = _pieces(y, rows, columns, length)
    targets = _pieces(out, rows, columns, length)
    extras = None if shortcut is None else _pieces(shortcut, rows, columns, length)
    for h, source in enumerate(sources):
        line, target = source, targets[h]
        if extras is not None:
            line = _scratch(ws, "piece", source) if relu else target
            np.add(source, extras[h], out=line)
        if relu:
            np.maximum(line, zeros, out=target)
        elif extras is None:
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
    centre = _tile(mean, length)
    grads, ys = _pieces(grad, rows, columns, length), _pieces(y, rows, columns, length)
    outs = None if out is None else _pieces(out, rows, columns, length)
    stores = None if masked is None else _pieces(masked, rows, columns, length)
    for h, g in enumerate(grads):
        buffer, line = _scratch(ws, "piece 2", g), _scratch(ws, "piece", g)
        if outs is not None or scale.size:
            g = buffer if stores is None else stores[h]
            positive = outs[h] if outs is not None else _affine(ys[h], scale, shift, line)
            np.multiply(grads[h], positive > np.float32(0), out=g)
        sums[0] += _channel_sum(g, channels)
        np.subtract(ys[h], centre, out=line)
        np.multiply(line, g, out=line)
        sums[1] += _channel_sum(line, channels)


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
    grads, ys = _pieces(grad, rows, columns, length), _pieces(y, rows, columns, length)
    targets = _pieces(target, rows, columns, length)
    for h, g in enumerate(grads):
        buffer, line = _scratch(ws, "piece 2", g), _scratch(ws, "piece", g)
        if scale.size:
            positive = _affine(ys[h], scale, shift, line) > np.float32(0)
            g = np.multiply(g, positive, out=buffer)
        np.multiply(ys[h], b, out=line)
        np.add(line, c, out=line)
        np.multiply(g, a, out=targets[h])
        np.add(targets[h], line, out=targets[h])


def _affine(y: np.ndarray, scale: np.ndarray, shift: np.ndarray, line: np.ndarray) -> np.ndarray:
    np.multiply(y, _tile(scale, y.shape[-1]), out=line)
    return np.add(line, _tile(shift, y.shape[-1]), out=line)
