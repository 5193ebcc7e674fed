"""Convolution as an implicit matrix product on tensor cores: 16-bit types, see conv.cu.

Channel counts that are no multiple of 8 (the three of an image) are filled up with zero channels.
"""

from __future__ import annotations

import numpy as np

from minires.backend import Array
from minires.functional.conv import conv_output_size
from minires.kernels.cuda.arrays import THREADS, blocks_for, cuda_type, logical, to_nhwc
from minires.kernels.cuda.instantiations import (
    CONVOLVE_TILES,
    STEP,
    WEIGHT_TILES,
    HopperTile,
    Tile,
)
from minires.kernels.cuda.runtime import empty, launch
from minires.kernels.cuda.weights import CHUNK, backward_matrix, forward_matrix

SLAB_BLOCKS = 528
"""How many blocks a weight gradient is cut into, about: four for each multiprocessor of an H200."""


def convolve_tile(channels: int) -> Tile:
    """The tile for `channels` columns: the narrowest that holds them, else the widest."""
    fitting = [tile for tile in CONVOLVE_TILES if tile.columns >= channels]
    return fitting[-1] if fitting else CONVOLVE_TILES[0]


def weight_tile(k: int, c: int) -> Tile:
    """The tile of a weight gradient (K, C): the largest that both fill."""
    fitting = [tile for tile in WEIGHT_TILES if tile.rows <= max(k, 16) and tile.columns <= c]
    return fitting[0] if fitting else WEIGHT_TILES[-1]


class Implicit:
    """The geometry of one convolution: x (N, H, W, C), weight (K, C, R, S)."""

    source = "conv"

    def __init__(self, x_shape: tuple[int, ...], weight: Array, stride: int, padding: int) -> None:
        self.n, self.h, self.w, self.c = x_shape
        self.k, _, self.r, self.s = weight.shape
        self.stride, self.padding = stride, padding
        self.p = conv_output_size(self.h, self.r, stride, padding)
        self.q = conv_output_size(self.w, self.s, stride, padding)

    def forward(self, x: Array, weight: Array, moments: bool = False) -> tuple[Array, Array | None]:
        """y (N, P, Q, K) of x (N, H, W, C), and with `moments` the partial moments of y.

        They are (tiles, 2, K) over `slab` rows each, as `batch_norm.finish_moments` takes them.
        """
        x = to_nhwc(logical(x), multiple=CHUNK)
        matrix = forward_matrix(weight, x.dtype, CHUNK)
        y = empty((self.n, self.p, self.q, self.k), x.dtype)
        rows = self.n * self.p * self.q
        tile = self._tile(self.k, rows)
        tiles = -(-rows // tile.rows)
        partial = empty((tiles, 2, self.k), np.float32) if moments else None
        self._convolve(tile, (tiles, -(-self.k // tile.columns), 1), x, matrix, y, partial, False)
        return y, partial

    @property
    def slab(self) -> int:
        """How many rows of y one tile of the partial moments covers."""
        return convolve_tile(self.k).rows

    def input_gradient(self, grad: Array, weight: Array) -> Array:
        """grad_x (N, H, W, C) of grad (N, P, Q, K)."""
        grad = to_nhwc(logical(grad), multiple=CHUNK)
        matrix = backward_matrix(weight, grad.dtype)  # (C, R, S, K)
        grad_x = empty((self.n, self.h, self.w, self.c), grad.dtype)
        largest = self.n * -(-self.h // self.stride) * -(-self.w // self.stride)
        tile = self._tile(self.c, largest)
        grid = (-(-largest // tile.rows), -(-self.c // tile.columns), self.stride**2)
        self._convolve(tile, grid, grad, matrix, grad_x, None, True)
        return grad_x

    def weight_gradient(self, x: Array, grad: Array) -> Array:
        """grad_weight (K, C, R, S) float32 of x (N, H, W, C) and grad (N, P, Q, K)."""
        x, grad = to_nhwc(logical(x), multiple=CHUNK), to_nhwc(logical(grad), multiple=CHUNK)
        c, k = x.shape[-1], grad.shape[-1]
        tile = weight_tile(k, c)
        across = -(-k // tile.rows), -(-c // tile.columns) * self.r * self.s
        rows = self.n * self.p * self.q
        slabs = max(1, min(SLAB_BLOCKS // (across[0] * across[1]), -(-rows // (8 * STEP))))
        slab = -(-rows // (slabs * STEP)) * STEP
        slabs = -(-rows // slab)
        partial = empty((slabs, k, self.r, self.s, c), np.float32)
        launch("conv", tile.kernel("weight_gradient", cuda_type(x)), (*across, slabs),
               (tile.threads,), x, grad, partial, self.n, self.h, self.w, c, k, self.r, self.s,
               self.p, self.q, self.stride, self.padding, slab, shared=tile.shared)
        return self._sum_of_slabs(partial)

    def _sum_of_slabs(self, partial: Array) -> Array:
        """partial (slabs, K', R, S, C') added up: (K, C, R, S)."""
        total = partial[0]
        if len(partial) > 1:
            total = empty(partial.shape[1:], np.float32)
            launch("conv", "add_slabs", blocks_for(total.size), (THREADS,), partial, total,
                   np.int64(total.size), len(partial))
        return total[: self.k, ..., : self.c].transpose(0, 3, 1, 2)

    def _tile(self, channels: int, rows: int) -> Tile | HopperTile:
        """The tile for results of `rows` rows and `channels` columns."""
        return convolve_tile(channels)

    def _convolve(self, tile, grid, x, matrix, y, partial, backward: bool) -> None:
        n, rows, columns, channels = x.shape
        name = tile.kernel("convolve", cuda_type(x))
        launch(self.source, name, grid, (tile.threads,), x, matrix, y, partial, n, rows, columns,
               channels, y.shape[3], self.r, self.s, y.shape[1], y.shape[2], self.stride,
               self.padding, backward, shared=tile.shared)
