"""Pieces of activations: which array, from which row, column and value on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minires.kernels.cpu.buffers import pool


class Region(NamedTuple):
    """A corner in an array (H, W, N C) that lies in memory in one piece.

    A loop works on `array[row + h, column + w, lo + k]` for h, w and k from 0 on.
    """

    array: np.ndarray
    row: int
    column: int
    lo: int

    def at(self, row: int, lo: int = 0) -> Region:
        """The region that starts `row` rows and `lo` values further on."""
        return Region(self.array, self.row + row, self.column, self.lo + lo)


def region(hwnc: np.ndarray) -> Region:
    """An (H, W, N, C) array as a region of the array that owns its memory; copied if need be."""
    found = _inside_owner(hwnc)
    if found is None:
        copy = pool.take(hwnc.shape)
        np.copyto(copy, hwnc)
        found = Region(copy.reshape(*hwnc.shape[:2], -1), 0, 0, 0)
    return found


def _inside_owner(hwnc: np.ndarray) -> Region | None:
    h, w, n, c = hwnc.shape
    line = n * c
    if hwnc.flags.c_contiguous:
        return Region(hwnc.reshape(h, w, line), 0, 0, 0)
    owner = hwnc.base
    if not isinstance(owner, np.ndarray) or not owner.flags.c_contiguous:
        return None
    if owner.dtype != np.float32:
        return None
    sh, sw, sn, sc = hwnc.strides
    if sc != 4 or sn != 4 * c or sw != 4 * line or sh <= 0 or sh % sw or owner.size % (sh // 4):
        return None
    width = sh // sw
    whole = owner.reshape(-1, width, line)
    row, rest = divmod((hwnc.ctypes.data - owner.ctypes.data) // 4, width * line)
    column, lo = divmod(rest, line)
    if lo or column + w > width or row + h > whole.shape[0]:
        return None
    return Region(whole, row, column, 0)
