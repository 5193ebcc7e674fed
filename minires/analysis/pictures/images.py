"""Small images in pictures: how they are shown, and grids of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minires.analysis.pictures.style import bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def show_image(axes: Axes, image: np.ndarray) -> None:
    """Show uint8 (3, H, W) or (H, W, 3) with its pixels as squares, without axes."""
    if image.shape[0] == 3:
        image = image.transpose(1, 2, 0)
    axes.imshow(image, interpolation="nearest")
    bare(axes)


def grid_shape(count: int, columns: int) -> tuple[int, int]:
    """(rows, columns) for `count` images, at most `columns` in a row."""
    columns = max(1, min(count, columns))
    return -(-count // columns), columns
