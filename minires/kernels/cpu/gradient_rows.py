"""The gradient of a convolution's output, made a few rows at a time where it is used.

A convolution that reads windows of it (Winograd) wants the rows above and below as well, and zeros
around the image: a border. Two chunks that follow each other have two rows in common; the second
one takes them from the first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minires.kernels.cpu.buffers import Workspace
from minires.kernels.cpu.regions import Region

Make = Callable[[slice, int, int, Region], None]
"""make(images, row, rows, target): write `rows` rows of the gradient, from `row` on."""


class GradientRows:
    """One thread's chunks for `conv.backward`, in scratch memory that the next chunk overwrites.

    Of the same images, no chunk has more rows than the one before it.
    """

    def __init__(self, conv, make: Make, ws: Workspace) -> None:
        self.border, (self.h, self.w), self.k = conv.border, conv.output_size, conv.k
        self.make, self.ws = make, ws
        self._next: tuple[int, slice] | None = None  # row and images that the last chunk leads to
        self._last: np.ndarray | None = None

    def take(self, images: slice, row: int, rows: int) -> np.ndarray:
        """The gradient's `rows` rows from `row` on, (rows + 2 b, W + 2 b, images * K), border b."""
        b, stop = self.border, row + rows
        length = (images.stop - images.start) * self.k
        chunk = self.ws.get("chunk", (rows + 2 * b, self.w + 2 * b, length))
        first = row
        if b and self._next == (row, images):
            chunk[:2] = self._last[-2:]
            first = row + 1
        elif b:
            chunk[:, 0] = chunk[:, -1] = 0  # and so it stays in the chunks that follow
            first = max(0, row - 1)
            chunk[: first - row + 1] = 0
        last = min(stop + b, self.h)
        self.make(images, first, last - first, Region(chunk, first - row + b, b, 0))
        chunk[last - row + b :] = 0
        self._next, self._last = (stop, images), chunk
        return chunk
