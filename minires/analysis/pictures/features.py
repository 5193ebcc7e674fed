"""What becomes of one image on its way through the network: the maps behind each stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from minires.analysis.pictures.images import show_image
from minires.analysis.pictures.style import Theme, bare, heading, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHANNELS = 10


def draw_features(
    theme: Theme,
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    shares: Mapping[str, float],
    title: str,
) -> Figure:
    """A row for each stage: its most varied channels, each from its smallest to its largest value.

    image: uint8 (3, H, W); maps: (C, h, w) by the name of the stage, in order; shares: the most
    probable classes with their probabilities, the answer first.
    """
    columns = CHANNELS + 1
    figure = new_figure(0.98 * columns + 0.4, 1.06 * len(maps) + 1.0)
    grid = figure.add_gridspec(len(maps), columns)
    first = figure.add_subplot(grid[:, 0])
    show_image(first, image)
    first.set_title("the image", fontsize=9)
    answers = "\n".join(f"{name} {share:.1%}" for name, share in shares.items())
    first.set_xlabel(f"the answer:\n{answers}", fontsize=9)
    for row, (name, stage) in enumerate(maps.items()):
        order = np.argsort(-stage.std(axis=(1, 2)), kind="stable")[:CHANNELS]
        for column in range(CHANNELS):
            axes = figure.add_subplot(grid[row, column + 1])
            bare(axes)
            if column < len(order):
                axes.imshow(stage[order[column]], cmap=theme.quantity, interpolation="nearest")
            if column == 0:
                shape = " x ".join(map(str, stage.shape))
                axes.set_title(f"{name}: {shape}", loc="left", fontsize=9)
    heading(figure, title, "in each stage the most varied channels; yellow is high")
    return figure
