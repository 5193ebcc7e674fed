"""Activations as strips: all images' pixels of one row in one piece of memory.

Strip h holds row h of every image, one image after another, in the order (N, W, C), with a zero
pixel or two behind each. So a window of three neighbouring pixels is one run of memory; at either
end of a row it meets the zeros that padding asks for; and what combines rows goes through whole
strips. The logical shape stays (N, C, H, W).
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import numpy as np

from minires.backend import Array
from minires.kernels.cpu.buffers import pool


class Strips(NamedTuple):
    """`pixels` (H, N, W + gap, C) in one piece, of which the last `gap` of a row are zero."""

    pixels: np.ndarray
    gap: int

    @property
    def lines(self) -> np.ndarray:
        """The strips as vectors: (H, N (W + gap) C)."""
        return self.pixels.reshape(len(self.pixels), -1)

    @property
    def inside(self) -> np.ndarray:
        """The pixels of the images only: a view (H, N, W, C)."""
        return self.pixels[:, :, : -self.gap]

    def logical(self) -> Array:
        """The activation under its logical shape (N, C, H, W)."""
        return self.inside.transpose(1, 3, 0, 2)

    def close(self) -> None:
        """Set the pixels between the images to zero."""
        self.pixels[:, :, -self.gap :] = 0


_gaps: dict[int, int] = {}  # by the identity of the memory's owner


def take(h: int, w: int, n: int, c: int, gap: int = 1) -> Strips:
    """Memory for strips. Whoever writes them has to `close` them, or to write zeros there."""
    pixels = pool.take((h, n, w + gap, c))
    owner = pixels.base
    _gaps[id(owner)] = gap
    weakref.finalize(owner, _gaps.pop, id(owner), None).atexit = False
    return Strips(pixels, gap)


def find(x: Array) -> Strips | None:
    """The strips of which x (N, C, H, W) is the `logical` view, or None."""
    owner = x.base
    gap = _gaps.get(id(owner))
    if gap is None or x.ndim != 4:
        return None
    n, c, h, w = x.shape
    if owner.size != h * n * (w + gap) * c:
        return None
    found = Strips(owner.reshape(h, n, w + gap, c), gap)
    view = found.logical()
    same = x.strides == view.strides and x.ctypes.data == view.ctypes.data
    return found if same else None


def of(x: Array, gap: int = 1) -> Strips:
    """x (N, C, H, W) as strips: the same memory where it has that gap, else a copy."""
    found = find(x)
    if found is not None and found.gap == gap:
        return found
    n, c, h, w = x.shape
    copy = take(h, w, n, c, gap)
    np.copyto(copy.inside, x.transpose(2, 0, 3, 1))
    copy.close()
    return copy
