"""Copies of the convolutions' weights in the type and the order of the tensor cores' products.

The weights are float32 (K, C, R, S) in memory order (K, R, S, C). A forward pass in a 16-bit type
reads (K, R, S, C), the gradient of x reads (C, R, S, K), both with rows filled up to whole 16-byte
pieces. Within `fixed_weights` one launch makes both for all layers; without it, each call makes its
own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from minires.backend import Array, on_fixed_weights
from minires.kernels.cuda import precision
from minires.kernels.cuda.arrays import as_nhwc, cuda_type, to_nhwc
from minires.kernels.cuda.runtime import address, constant, empty, launch

CHUNK = 8
"""Values in 16 bytes: what one asynchronous copy moves."""

TILE = 32
"""As in weights.cu."""

KEPT_MODELS = 4
"""Copies are kept for so many sets of weights: a model being trained, and a few to compare with."""


class Copies:
    """The copies of some weights, and the table that tells the kernel where everything lies."""

    def __init__(self, weights: list[Array], dtype: np.dtype) -> None:
        self.places: dict[int, tuple[Array, Array]] = {}
        rows, size, tiles = [], 0, 0
        for weight in weights:
            k, c, r, s = weight.shape
            wide_c, wide_k = _filled(c), _filled(k)
            rows.append([tiles, address(weight), k, c, r * s, size, size + k * r * s * wide_c])
            size += r * s * (k * wide_c + c * wide_k)
            tiles += -(-k // TILE) * -(-c // TILE) * r * s
        self.tiles, self.table = tiles, constant(np.array(rows, np.int64))
        self.values = empty((size,), dtype)
        for weight, row in zip(weights, rows, strict=True):
            k, c, r, s = weight.shape
            shapes = (k, r, s, _filled(c)), (c, r, s, _filled(k))
            self.places[row[1]] = tuple(
                self.values[start : start + int(np.prod(shape))].reshape(shape)
                for start, shape in zip(row[5:], shapes, strict=True)
            )

    def refresh(self) -> None:
        """Make the copies anew, in one launch."""
        launch("weights", f"copy_weights<{cuda_type(self.values)}>", (self.tiles,), (TILE, 8),
               self.table, self.table.shape[0], self.values)


_kept: OrderedDict[tuple, Copies] = OrderedDict()
_fixed: Copies | None = None


@contextmanager
def keep_copies(weights: list[Array]) -> Iterator[Copies | None]:
    """Have fresh copies of `weights` while the context lasts, in a 16-bit precision.

    A graph that was captured in the context writes to these copies: whoever keeps it, keeps them.
    """
    global _fixed
    dtype = precision.current.dtype
    weights = [w for w in weights if _fits(w)] if dtype.itemsize == 2 else []
    if not weights:
        yield None
        return
    key = (dtype, *((address(w), w.shape) for w in weights))
    if key not in _kept:
        _kept[key] = Copies(weights, dtype)
        while len(_kept) > KEPT_MODELS:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    before, _fixed = _fixed, _kept[key]
    try:
        _fixed.refresh()
        yield _fixed
    finally:
        _fixed = before


on_fixed_weights("gpu", keep_copies)


def forward_matrix(weight: Array, dtype: np.dtype, multiple: int = 1) -> Array:
    """weight (K, C, R, S) as (K, R, S, C) in `dtype`, C filled up to a `multiple` of 1 or CHUNK."""
    copies = _find(weight, dtype)
    if copies is not None and (multiple == CHUNK or weight.shape[1] % CHUNK == 0):
        return copies[0]
    return to_nhwc(weight, dtype, multiple)


def backward_matrix(weight: Array, dtype: np.dtype) -> Array:
    """weight (K, C, R, S) as (C, R, S, K) in `dtype`, K filled up to a multiple of CHUNK."""
    copies = _find(weight, dtype)
    return to_nhwc(weight.transpose(1, 0, 2, 3), dtype, CHUNK) if copies is None else copies[1]


def _find(weight: Array, dtype: np.dtype) -> tuple[Array, Array] | None:
    if _fixed is None or _fixed.values.dtype != dtype or weight.dtype != np.float32:
        return None
    found = _fixed.places.get(address(weight))
    k, c, r, s = weight.shape
    return found if found is not None and found[0].shape[:3] == (k, r, s) else None


def _fits(weight: Array) -> bool:
    return weight.ndim == 4 and weight.dtype == np.float32 and as_nhwc(weight) is not None


def _filled(channels: int) -> int:
    return -(-channels // CHUNK) * CHUNK
