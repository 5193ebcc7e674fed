"""Convolution with operands that Hopper's tensor memory accelerator brings, see conv_tma.cu.

MINIRES_TMA=1 in the environment asks for it. No GPU has run it yet, so without that the rung below
runs, where many threads start the copies. `Hopper`, that rung, prepares the arrays and takes what
does not fit here: channels that are no multiple of 64, strides above 2. Where the driver cannot
make tensor maps, it runs throughout.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from minires.backend import Array
from minires.kernels.cuda import hopper
from minires.kernels.cuda.arrays import cuda_type
from minires.kernels.cuda.hopper import Hopper
from minires.kernels.cuda.instantiations import (
    HOPPER_STEP,
    HOPPER_THREADS,
    HopperTile,
    HopperWeightTile,
)
from minires.kernels.cuda.runtime import address, launch
from minires.kernels.cuda.tensor_maps import (
    NO_MAP,
    Windows,
    backward_windows,
    can_encode,
    forward_windows,
    matrix_map,
    together,
    window_map,
)

SWITCH = "MINIRES_TMA"

CLASSES = 4
"""As in conv_tma.cu: the windows' maps in a launch, one for each class of pixels."""

_chosen: bool | None = None


def is_on() -> bool:
    """Whether this rung is wanted: by `choose`, else by MINIRES_TMA in the environment."""
    return os.environ.get(SWITCH, "0") not in ("", "0") if _chosen is None else _chosen


def choose(on: bool | None) -> None:
    """Want this rung, or not, whatever the environment says; None leaves it to the environment."""
    global _chosen
    _chosen = on


@contextmanager
def chosen(on: bool | None) -> Iterator[None]:
    """`choose` while the context lasts."""
    before = _chosen
    choose(on)
    try:
        yield
    finally:
        choose(before)


def is_here() -> bool:
    """Whether the GPU and its driver can do it."""
    return hopper.is_here() and can_encode()


class Tma(Hopper):
    """The geometry of one convolution: x (N, H, W, C), weight (K, C, R, S)."""

    def _convolve(self, tile: HopperTile, grid, x, matrix, y, partial, backward: bool) -> None:
        classes = self._classes(x.shape, y.shape, backward)
        if not self._fits(x, matrix, classes):
            super()._convolve(tile, grid, x, matrix, y, partial, backward)
            return
        n, _, _, channels = x.shape
        columns, (rows, across) = y.shape[3], y.shape[1:3]
        windows = [_windows(x, *axes, tile.rows) for axes in classes]
        weights = matrix_map(
            address(matrix), columns, self.r * self.s * channels, x.dtype.name, tile.columns
        )
        maps = together(*windows, *[NO_MAP] * (CLASSES - len(windows)), weights)
        launch("conv_tma", tile.kernel("convolve", cuda_type(x), "tma"), grid,
               (HOPPER_THREADS["tma"],), maps, y, partial, n, channels, columns, self.r, self.s,
               rows, across, self.stride, self.padding, backward, shared=tile.shared)

    def _weight_slabs(self, tile: HopperWeightTile, grid, x, grad, partial, slab: int) -> None:
        axes = self._classes(x.shape, grad.shape, False)
        if not self._fits(x, grad, axes):
            super()._weight_slabs(tile, grid, x, grad, partial, slab)
            return
        rows, k = self.n * self.p * self.q, grad.shape[3]
        grads = matrix_map(address(grad), rows, k, x.dtype.name, HOPPER_STEP)
        windows = _windows(x, *axes[0], HOPPER_STEP)
        maps = together(windows, *[NO_MAP] * (CLASSES - 1), grads)
        launch("conv_tma", tile.kernel("weight_gradient", cuda_type(x), "tma"), grid,
               (HOPPER_THREADS["tma"],), maps, partial, self.n, x.shape[3], k, self.r, self.s,
               self.p, self.q, self.stride, self.padding, slab, shared=tile.shared)

    def _classes(self, x: tuple, y: tuple, backward: bool) -> list[tuple[Windows, Windows]]:
        """The windows down and across of each class of y's pixels, over x; both (N, H, W, C)."""
        if not backward:
            return [tuple(
                forward_windows(x[axis], y[axis], taps, self.stride, self.padding)
                for axis, taps in ((1, self.r), (2, self.s))
            )]  # fmt: skip
        down, across = (
            [backward_windows(x[axis], y[axis], taps, self.stride, self.padding, parity)
             for parity in range(self.stride)]
            for axis, taps in ((1, self.r), (2, self.s))
        )  # fmt: skip
        return [(h, w) for h in down for w in across]

    def _fits(self, x: Array, matrix: Array, classes: list[tuple[Windows, Windows]]) -> bool:
        """Whether boxes of 64 channels can bring the windows of x and the rows of `matrix`."""
        return (
            x.shape[3] % HOPPER_STEP == 0
            and len(classes) <= CLASSES
            and all(address(array) % 16 == 0 for array in (x, matrix))
            and all(_is_empty(axes) or all(axis.fits for axis in axes) for axes in classes)
        )


def _is_empty(axes: tuple[Windows, Windows]) -> bool:
    return any(axis.is_empty for axis in axes)


def _windows(x: Array, down: Windows, across: Windows, pixels: int) -> bytes:
    """The map of one class of windows of x (N, H, W, C)."""
    if _is_empty((down, across)):
        return NO_MAP
    return window_map(address(x), x.shape, x.dtype.name, down, across, pixels)
