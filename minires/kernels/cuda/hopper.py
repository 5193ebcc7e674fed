"""Convolution on Hopper's tensor cores: 16-bit types on compute capability 9.0, see conv_wgmma.cu.

`Implicit` prepares the arrays and is the fallback and the oracle; here are the tiles and the weight
gradient. None of the choices below has been timed.
"""

from __future__ import annotations

import numpy as np

from minires.backend import Array
from minires.kernels.cuda.arrays import cuda_type, logical, to_nhwc
from minires.kernels.cuda.implicit import Implicit
from minires.kernels.cuda.instantiations import (
    HOPPER_STEP,
    HOPPER_TILES,
    HOPPER_WEIGHT_TILES,
    HopperTile,
    HopperWeightTile,
)
from minires.kernels.cuda.runtime import capability, empty, launch
from minires.kernels.cuda.weights import CHUNK

MULTIPROCESSORS = 132
"""Of an H100 or an H200."""

ENOUGH = 120
"""Blocks that leave few of them without work."""

NARROW = 64
"""Weight gradients with fewer filters would leave most rows of a product empty."""


def is_here() -> bool:
    """Whether the GPU has these instructions: 9.0 alone, they are not carried on."""
    return capability() == 90


def convolve_tile(channels: int, rows: int) -> HopperTile:
    """The widest tile that is not twice too wide and gives enough blocks, else the narrowest.

    Tiles of less than 64 columns are for fewer than 64 channels.
    """
    fitting = [tile for tile in HOPPER_TILES if tile.columns < 2 * max(channels, 16)]
    wide = [tile for tile in fitting if tile.columns >= 64] or fitting[:1]
    for tile in wide:
        if -(-rows // tile.rows) * -(-channels // tile.columns) >= ENOUGH:
            return tile
    return wide[-1]


def weight_tile(k: int, depth: int) -> HopperWeightTile:
    """The tile of a weight gradient (K, R S C)."""
    large, square, flat = HOPPER_WEIGHT_TILES
    if k < square.rows:
        return flat
    return large if depth >= 2 * large.columns else square


class Hopper(Implicit):
    """The geometry of one convolution: x (N, H, W, C), weight (K, C, R, S)."""

    source = "conv_wgmma"

    def _tile(self, channels: int, rows: int) -> HopperTile:
        return convolve_tile(channels, rows)

    def weight_gradient(self, x: Array, grad: Array) -> Array:
        """grad_weight (K, C, R, S) float32 of x (N, H, W, C) and grad (N, P, Q, K)."""
        if self.k < NARROW:
            return super().weight_gradient(x, grad)
        x, grad = to_nhwc(logical(x), multiple=CHUNK), to_nhwc(logical(grad), multiple=CHUNK)
        c, k = x.shape[-1], grad.shape[-1]
        depth = self.r * self.s * c
        tile = weight_tile(k, depth)
        across = -(-k // tile.rows), -(-depth // tile.columns)
        rows = self.n * self.p * self.q
        blocks = 2 * MULTIPROCESSORS // (across[0] * across[1])
        slabs = max(1, min(blocks, -(-rows // (8 * HOPPER_STEP))))
        slab = -(-rows // (slabs * HOPPER_STEP)) * HOPPER_STEP
        slabs = -(-rows // slab)
        partial = empty((slabs, k, self.r, self.s, c), np.float32)
        self._weight_slabs(tile, (*across, slabs), x, grad, partial, slab)
        return self._sum_of_slabs(partial)

    def _weight_slabs(self, tile: HopperWeightTile, grid, x, grad, partial, slab: int) -> None:
        """The gradient over each slab of rows: partial (slabs, K', R, S, C')."""
        launch("conv_wgmma", tile.kernel("weight_gradient", cuda_type(x)), grid, (tile.threads,),
               x, grad, partial, self.n, self.h, self.w, x.shape[3], grad.shape[3], self.r, self.s,
               self.p, self.q, self.stride, self.padding, slab, shared=tile.shared)
