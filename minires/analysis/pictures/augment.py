"""One image, and what the augmentation of a training makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minires.analysis.augmented import Variants
from minires.analysis.pictures.images import show_image
from minires.analysis.pictures.style import Theme, bare, heading, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 8


def draw_augment(theme: Theme, image: np.ndarray, kinds: Sequence[Variants], title: str) -> Figure:
    """A row for each kind, the image itself on the left; one kind alone fills several rows.

    image: uint8 (3, H, W).
    """
    rows = [
        (kind.name if start == 0 else "", kind, range(start, min(start + COLUMNS, count)))
        for kind in kinds
        for count in [len(kind.images)]
        for start in range(0, count, COLUMNS)
    ]
    mixed = any(any(kind.captions) for kind in kinds)
    figure = new_figure(1.12 * (COLUMNS + 1) + 0.3, (1.5 if mixed else 1.3) * len(rows) + 0.6)
    grid = figure.add_gridspec(len(rows), COLUMNS + 1)
    first = figure.add_subplot(grid[:, 0])
    show_image(first, image)
    first.set_title("the image", fontsize=9)
    for row, (name, kind, places) in enumerate(rows):
        for column in range(COLUMNS):
            axes = figure.add_subplot(grid[row, column + 1])
            if column >= len(places):
                bare(axes)
                continue
            show_image(axes, kind.images[places[column]])
            axes.set_xlabel(kind.captions[places[column]], fontsize=7.5, labelpad=2)
            if column == 0:
                axes.set_title(name, loc="left", fontsize=10)
    heading(figure, title)
    return figure
