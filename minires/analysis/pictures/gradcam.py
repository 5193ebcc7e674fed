"""Where the network looked: Grad-CAM over images, beside the images themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minires.analysis.gradcam import GradCam
from minires.analysis.metrics import softmax
from minires.analysis.pictures.images import grid_shape, show_image
from minires.analysis.pictures.overlay import overlay
from minires.analysis.pictures.style import Theme, bare, heading, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 5


def draw_gradcam(
    theme: Theme,
    images: np.ndarray,
    captions: Sequence[str],
    result: GradCam,
    class_names: Sequence[str],
    title: str,
) -> Figure:
    """Each image under its caption and, below it, the same with the heat of the class asked about.

    images: uint8 (N, 3, H, W).
    """
    rows, columns = grid_shape(len(images), COLUMNS)
    figure = new_figure(max(1.75 * columns, 4.5), 3.72 * rows + 0.9)
    cells = figure.subplots(2 * rows, columns, squeeze=False)
    probabilities = softmax(result.logits)
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        above, below = cells[2 * row][column], cells[2 * row + 1][column]
        if place >= len(images):
            bare(above)
            bare(below)
            continue
        asked = result.classes[place]
        show_image(above, images[place])
        above.set_title(captions[place], fontsize=10)
        show_image(below, _heated(images[place], result.heat[place]))
        share = probabilities[place, asked]
        below.set_xlabel(f"{class_names[asked]} {share:.1%}", fontsize=10)
    places = f"{result.heat.shape[1]}x{result.heat.shape[2]}"
    text = (
        "below each image: the class that was asked about, its probability, and where the "
        f"{places} maps of {result.layer} speak for it"
    )
    heading(figure, title, text)
    return figure


def _heated(image: np.ndarray, heat: np.ndarray, factor: int = 8) -> np.ndarray:
    """The image with its pixels as squares, and smooth heat over it."""
    return overlay(image.repeat(factor, axis=1).repeat(factor, axis=2), heat)
