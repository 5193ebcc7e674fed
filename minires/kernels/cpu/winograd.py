r"""Winograd's F(4x4, 3x3): a 3x3 convolution with a quarter of the multiplications.

One tile of 4x4 outputs needs a 6x6 window of the input. Three small matrices turn the sliding dot
products into plain products: with $d$ the window and $w$ the filter,

$$ y = A^T \left[ (G w G^T) \odot (B^T d B) \right] A $$

36 multiplications for 16 outputs, where the direct way takes 144. Summed over input channels, each
of the 36 positions is a matrix product of its own, (tiles, C) times (C, K).

Backward, both gradients are sliding sums over grad_output: with $x$ a tile of 4x4 pixels, $g$ the
6x6 window of grad_output around it, and $w'$ the filter turned by 180 degrees,

$$ M = B^T g B, \qquad \partial x = A^T \left[ (G w' G^T) \odot M \right] A, \qquad
   \partial w' = G^T \left[ (A\,x\,A^T) \odot M \right] G $$

so the transformed gradient $M$ serves both, and no tiles of the results overlap. (Step by step back
through the forward pass, the gradient of x comes in overlapping windows $B\,z\,B^T$ that have to be
added up, which took more than twice as long as any transform here.)

Source: Lavin and Gray 2015, "Fast algorithms for convolutional neural networks", section 4.1.

The three transforms here are products with $B^T$, $A^T$ and $A$, along the rows and then along the
columns. NumPy does one product for each row of pixels, all in one call: a 6x6 matrix times six
rows of values, that BLAS keeps in the first-level cache. The same sums as vector operations, two
dozen of them, take two to three times as long, and two threads wait for the interpreter's lock
after each.

An activation is (H, W, N C) in one piece, of which a call works on a few rows of tiles (from row
`row` on) and on the values `lo` to `hi` of the last axis, one thread's images. "Planes" are the 36
positions, each holding all tiles of these rows, hi - lo values each, and some padding.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minires.kernels.cpu.buffers import Workspace
from minires.kernels.cpu.regions import Region

TILE = 4

PIECE = 4096
"""Values of a row that one product takes: six such rows in and six out stay in the cache."""

FILTER = np.array(  # G
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
FILTER_TRANSFORM = np.einsum("ia,jb->ijab", FILTER, FILTER).reshape(36, 9).astype(np.float32)
TURNED_TRANSFORM = np.ascontiguousarray(FILTER_TRANSFORM[:, ::-1])
"""The same for filters that are turned by 180 degrees."""
TURNED_ADJOINT = np.ascontiguousarray(TURNED_TRANSFORM.T)

INPUT = np.array(  # B^T
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
OUTPUT = np.array(  # A^T
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ],
    np.float32,
)
EVERYWHERE = 7
"""The position in row 1 and column 1: the output transform adds it to all 16 outputs alike."""

_OUTPUT_ADJOINT = np.ascontiguousarray(OUTPUT.T)


def along_first_axis(matrix: np.ndarray, source: np.ndarray, target: np.ndarray) -> None:
    """target[i] = sum over j of matrix[i, j] source[j]; a row of the last axis is contiguous."""
    source, target = np.moveaxis(source, 0, -2), np.moveaxis(target, 0, -2)
    for start in range(0, source.shape[-1], PIECE):
        piece = (..., slice(start, start + PIECE))
        np.matmul(matrix, source[piece], out=target[piece])


def input_transform(x, row, tile_rows, lo, hi, planes, ws: Workspace) -> None:
    """planes = B^T d B for `tile_rows` rows of tiles of x (H + 2, W + 2, N C), which has a border:
    the padded input, or grad_output with the pixels around it."""
    lines = x[row : row + TILE * tile_rows + 2, :, lo:hi]
    half = ws.get("half", (6, tile_rows, *lines.shape[1:]))
    along_first_axis(INPUT, _windows(lines, 6), half)
    v = _as_tiles(planes, tile_rows, x.shape[1] // TILE, hi - lo)
    along_first_axis(INPUT, _windows(_columns_first(half), 6), v)


def output_transform(planes, y, row, tile_rows, lo, hi, ws: Workspace) -> None:
    """y (H, W, N C) = A^T m A for `tile_rows` rows of tiles."""
    lines = y[row : row + TILE * tile_rows, :, lo:hi]
    half = ws.get("half", (6, tile_rows, *lines.shape[1:]))
    m = _as_tiles(planes, tile_rows, y.shape[1] // TILE, hi - lo)
    along_first_axis(OUTPUT, m, _windows(_columns_first(half), 4))
    along_first_axis(OUTPUT, half, _windows(lines, 4))


def output_adjoint(y: Region, tile_rows, columns, length, planes, ws: Workspace) -> None:
    """planes = A y A^T for `tile_rows` rows of tiles of y, `columns` pixels of `length` values in
    each row: the adjoint of the output transform, to which the input's pixels go backward."""
    lines = y.array[y.row : y.row + TILE * tile_rows, :, y.lo : y.lo + length]
    lines = lines[:, y.column : y.column + columns]
    half = ws.get("half", (6, tile_rows, *lines.shape[1:]))
    along_first_axis(_OUTPUT_ADJOINT, _windows(lines, 4), half)
    m = _as_tiles(planes, tile_rows, columns // TILE, length)
    along_first_axis(_OUTPUT_ADJOINT, _windows(_columns_first(half), 4), m)


def _windows(lines: np.ndarray, size: int) -> np.ndarray:
    """Windows of `size` lines, four apart, of lines (L, ...): a view (size, L // 4, ...)."""
    line, *rest = lines.strides
    shape = (size, lines.shape[0] // TILE, *lines.shape[1:])
    return as_strided(lines, shape, (line, TILE * line, *rest))


def _columns_first(half: np.ndarray) -> np.ndarray:
    """(6, tile rows, W, values) as (W, 6, tile rows, values)."""
    return half.transpose(2, 0, 1, 3)


def _as_tiles(planes: np.ndarray, tile_rows: int, tiles: int, length: int) -> np.ndarray:
    """Planes (36, tile_rows * tiles * length + padding), of which the first axis is 6 rows of 6
    positions, as (6 columns, tiles, 6 rows, tile_rows, length)."""
    plane, value = planes.strides
    line = length * value
    return as_strided(
        planes,
        (6, tiles, 6, tile_rows, length),
        (plane, line, 6 * plane, tiles * line, value),
    )
