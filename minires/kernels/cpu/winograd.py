r"""Winograd's F(4x4, 3x3): a 3x3 convolution with a quarter of the multiplications.

One tile of 4x4 outputs needs a 6x6 window of the input. Three small matrices turn the sliding dot
products into plain products: with $d$ the window and $w$ the filter,

$$ y = A^T \left[ (G w G^T) \odot (B^T d B) \right] A $$

36 multiplications for 16 outputs, where the direct way takes 144. Summed over input channels, each
of the 36 positions is a matrix product of its own, (tiles, C) times (C, K).

Backward is the adjoint, each matrix transposed: with $g$ a tile of grad_output,

$$ M = A\,g\,A^T, \qquad \partial U = V^T M, \qquad \partial d = B\,(M U^T)\,B^T, \qquad
   \partial w = G^T\,\partial U\,G $$

so the transformed gradient $M$ serves both gradients. Overlapping windows add up.

Source: Lavin and Gray 2015, "Fast algorithms for convolutional neural networks", section 4.1.

The four transforms here are written with NumPy's `out=`: each is a handful of long vector
operations. An activation is (H, W, N C) in one piece, of which a call works on a few rows of tiles
(from row `row` on) and on the values `lo` to `hi` of the last axis, one thread's images. "Planes"
are the 36 positions, each holding all tiles of these rows, hi - lo values each, and some padding.
"""

from __future__ import annotations

import numpy as np

from minires.kernels.cpu.buffers import Workspace

TILE = 4

_G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
FILTER_TRANSFORM = np.einsum("ia,jb->ijab", _G, _G).reshape(36, 9).astype(np.float32)
FILTER_ADJOINT = np.ascontiguousarray(FILTER_TRANSFORM.T)

_TWO, _THREE, _FOUR, _FIVE = (np.float32(v) for v in (2, 3, 4, 5))
_add, _sub, _mul = np.add, np.subtract, np.multiply


def input_1d(d, o, t) -> None:
    """o = B^T d along one axis: six arrays to six arrays; t is scratch of the same shape."""
    _sub(d[4], d[2], out=o[3])
    _sub(d[3], d[1], out=t)
    _add(t, t, out=t)
    _sub(o[3], t, out=o[4])
    _sub(d[0], d[2], out=o[0])
    _mul(o[0], _FOUR, out=o[0])
    _add(o[0], o[3], out=o[0])
    _sub(d[5], d[3], out=o[5])
    _add(t, t, out=o[1])
    _sub(o[5], o[1], out=o[5])
    _add(o[3], t, out=o[3])
    _mul(d[2], _FOUR, out=o[1])
    _sub(d[4], o[1], out=o[1])
    _mul(d[1], _FOUR, out=t)
    _sub(d[3], t, out=t)
    _sub(o[1], t, out=o[2])
    _add(o[1], t, out=o[1])


def output_1d(m, o, t, u) -> None:
    """o = A^T m along one axis: six arrays to four; t and u are scratch."""
    _add(m[1], m[2], out=t)
    _add(m[3], m[4], out=u)
    _add(m[0], t, out=o[0])
    _add(o[0], u, out=o[0])
    _mul(u, _FOUR, out=u)
    _add(t, u, out=o[2])
    _sub(m[1], m[2], out=t)
    _sub(m[3], m[4], out=u)
    _add(u, u, out=u)
    _add(t, u, out=o[1])
    _mul(u, _FOUR, out=u)
    _add(t, u, out=t)
    _add(t, m[5], out=o[3])


def output_adjoint_1d(y, o, t, u) -> None:
    """o = A y along one axis: four arrays to six; t and u are scratch."""
    np.copyto(o[0], y[0])
    np.copyto(o[5], y[3])
    _add(y[0], y[2], out=t)
    _add(y[1], y[3], out=u)
    _add(t, u, out=o[1])
    _sub(t, u, out=o[2])
    _mul(y[2], _FOUR, out=t)
    _add(t, y[0], out=t)
    _mul(y[3], _FOUR, out=u)
    _add(u, y[1], out=u)
    _add(u, u, out=u)
    _add(t, u, out=o[3])
    _sub(t, u, out=o[4])


def input_adjoint_1d(z, o, p, q) -> None:
    """o = B z along one axis: six arrays to six; p and q are scratch."""
    _add(z[1], z[2], out=p)
    _add(z[3], z[4], out=q)
    _add(z[0], p, out=o[4])
    _add(o[4], q, out=o[4])
    _mul(z[0], _FOUR, out=o[0])
    _mul(p, _THREE, out=p)
    _add(p, o[0], out=p)
    _add(p, o[4], out=p)
    np.negative(p, out=o[2])
    _sub(z[1], z[2], out=p)
    _sub(z[3], z[4], out=q)
    _add(q, q, out=q)
    _mul(z[5], _FIVE, out=o[3])
    _sub(q, o[3], out=o[3])
    _add(o[3], p, out=o[3])
    _sub(z[5], p, out=p)
    _mul(p, _FOUR, out=p)
    _sub(p, q, out=o[1])
    np.copyto(o[5], z[5])


def input_transform(x, row, tile_rows, lo, hi, planes, ws: Workspace) -> None:
    """planes = B^T d B for `tile_rows` rows of tiles of the padded input x (H + 2, W + 2, N C)."""
    r, tiles, length = tile_rows, (x.shape[1] - 2) // TILE, hi - lo
    v = _as_tiles(planes, r, tiles, length)
    half = ws.get("half", (6, r, 4 * tiles + 2, length))
    scratch = ws.get("scratch", (r, 4 * tiles + 2, length))
    input_1d([_every_fourth(x, row + i, r, lo, hi) for i in range(6)], list(half), scratch)
    scratch = ws.get("scratch", (6, r, tiles, length))
    columns = [half[:, :, j : j + 4 * (tiles - 1) + 1 : 4] for j in range(6)]
    input_1d(columns, [v[:, j] for j in range(6)], scratch)


def output_transform(planes, y, row, tile_rows, lo, hi, ws: Workspace) -> None:
    """y (H, W, N C) = A^T m A for `tile_rows` rows of tiles."""
    r, tiles, length = tile_rows, y.shape[1] // TILE, hi - lo
    m = _as_tiles(planes, r, tiles, length)
    half = ws.get("half", (4, 6, r, tiles, length))
    s, u = ws.get("scratch", (6, r, tiles, length)), ws.get("scratch2", (6, r, tiles, length))
    output_1d(list(m), list(half), s, u)
    s, u = ws.get("scratch", (r, tiles, length)), ws.get("scratch2", (r, tiles, length))
    for i in range(4):
        outs = [_every_fourth(y, row + i, r, lo, hi)[:, b::4] for b in range(4)]
        output_1d([half[i, j] for j in range(6)], outs, s, u)


def output_adjoint(y, row, tile_rows, lo, hi, planes, ws: Workspace) -> None:
    """planes = A g A^T for `tile_rows` rows of tiles; y (H, W, N C) holds g."""
    r, tiles, length = tile_rows, y.shape[1] // TILE, hi - lo
    m = _as_tiles(planes, r, tiles, length)
    half = ws.get("half", (6, r, 4 * tiles, length))
    s, u = ws.get("scratch", (r, 4 * tiles, length)), ws.get("scratch2", (r, 4 * tiles, length))
    rows = [_every_fourth(y, row + i, r, lo, hi) for i in range(4)]
    output_adjoint_1d(rows, list(half), s, u)
    s, u = ws.get("scratch", (6, r, tiles, length)), ws.get("scratch2", (6, r, tiles, length))
    columns = [half[:, :, b::4] for b in range(4)]
    output_adjoint_1d(columns, [m[:, j] for j in range(6)], s, u)


def input_adjoint(planes, x, row, tile_rows, lo, hi, ws: Workspace) -> None:
    """Add B z B^T of `tile_rows` rows of tiles to the padded array x (H + 2, W + 2, N C)."""
    r, tiles, length = tile_rows, (x.shape[1] - 2) // TILE, hi - lo
    z = _as_tiles(planes, r, tiles, length)
    s, u = ws.get("scratch", (6, r, tiles, length)), ws.get("scratch2", (6, r, tiles, length))
    wide = ws.get("half", (6, r, 4 * tiles + 4, length))
    spill = ws.get("spill", (2, 6, r, tiles, length))
    body = [wide[:, :, b : b + 4 * (tiles - 1) + 1 : 4] for b in range(4)]
    input_adjoint_1d([z[:, j] for j in range(6)], [*body, spill[0], spill[1]], s, u)
    wide[:, :, 4 * tiles :] = 0
    for b in range(2):  # columns 4 and 5 of a tile are columns 0 and 1 of the next
        columns = wide[:, :, 4 + b : 4 + b + 4 * (tiles - 1) + 1 : 4]
        _add(columns, spill[b], out=columns)
    rows = ws.get("spill", (6, r, 4 * tiles + 2, length))
    s = ws.get("scratch", (r, 4 * tiles + 2, length))
    u = ws.get("scratch2", (r, 4 * tiles + 2, length))
    input_adjoint_1d(list(wide[:, :, : 4 * tiles + 2]), list(rows), s, u)
    for i in range(6):
        target = _every_fourth(x, row + i, r, lo, hi)
        _add(target, rows[i], out=target)


def _every_fourth(x: np.ndarray, row: int, count: int, lo: int, hi: int) -> np.ndarray:
    """Rows `row`, `row + 4`, ... of x (H, W, N C), `count` of them: one for each row of tiles."""
    return x[row : row + 4 * (count - 1) + 1 : 4, :, lo:hi]


def _as_tiles(planes: np.ndarray, tile_rows: int, tiles: int, length: int) -> np.ndarray:
    """Planes (36, tile_rows * tiles * length + padding) as (6, 6, tile_rows, tiles, length)."""
    step, line = planes.itemsize, length * planes.itemsize
    return np.lib.stride_tricks.as_strided(
        planes,
        (6, 6, tile_rows, tiles, length),
        (6 * planes.strides[0], planes.strides[0], tiles * line, line, step),
    )
