"""The same activation (N, C, H, W) in different places of memory."""

from __future__ import annotations

import numpy as np

from minires.kernels.cpu.buffers import pool


def hwnc_order(x: np.ndarray) -> np.ndarray:
    """In memory order (H, W, N, C), in one piece."""
    return np.ascontiguousarray(x.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1)


def in_a_border(x: np.ndarray) -> np.ndarray:
    """In a border of zeros from the kernels' pool, as one unit hands it to the next."""
    n, c, h, w = x.shape
    inside = pool.take_bordered(h, w, n, c)[1:-1, 1:-1].transpose(2, 3, 0, 1)
    inside[...] = x
    return inside


def in_a_larger_array(x: np.ndarray) -> np.ndarray:
    """Inside an array of the order (H, W, N, C) whose other values are NaN."""
    n, c, h, w = x.shape
    inside = np.full((h + 5, w + 4, n, c), np.nan, x.dtype)[2 : 2 + h, 3 : 3 + w]
    inside[...] = x.transpose(2, 3, 0, 1)
    return inside.transpose(2, 3, 0, 1)


def turned_twice(x: np.ndarray) -> np.ndarray:
    """A view of a view, with the strides of the original."""
    return x[::-1][::-1]


LAYOUTS = [hwnc_order, np.asfortranarray, turned_twice, in_a_border, in_a_larger_array]
