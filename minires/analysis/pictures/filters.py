"""The filters of the first layer, and what each of them sees in an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minires.analysis.pictures.images import show_image
from minires.analysis.pictures.style import Theme, bare, heading, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 8
MOST = 64


def draw_filters(
    theme: Theme, weight: np.ndarray, image: np.ndarray, response: np.ndarray, title: str
) -> Figure:
    """Each filter in colour, grey being 0, and below it its response to the image on the left.

    weight: (K, 3, k, k); image: uint8 (3, H, W); response: (K, h, w), the convolution's output for
    the image. At most 64 filters are shown, those with the largest weights first.
    """
    norms = np.sqrt((weight.astype(np.float64) ** 2).sum(axis=(1, 2, 3)))
    order = np.argsort(-norms, kind="stable")[:MOST]
    rows = -(-len(order) // COLUMNS)
    figure = new_figure(1.6 + 1.05 * COLUMNS, 2.08 * rows + 0.85)
    left, right = figure.subfigures(1, 2, width_ratios=(1.6, 1.05 * COLUMNS))
    shown = left.subplots()
    show_image(shown, image)
    shown.set_title("the image", fontsize=9)
    cells = right.subplots(2 * rows, COLUMNS, squeeze=False)
    largest = float(np.abs(weight).max())
    for place in range(rows * COLUMNS):
        row, column = divmod(place, COLUMNS)
        above, below = cells[2 * row][column], cells[2 * row + 1][column]
        if place >= len(order):
            bare(above)
            bare(below)
            continue
        index = order[place]
        show_image(above, in_colour(weight[index], largest))
        above.set_title(str(index), fontsize=8, color=theme.muted, pad=2)
        _show_response(below, response[index])
    size = f"{weight.shape[2]}x{weight.shape[3]}"
    text = (
        f"{len(weight)} filters of {size} pixels, by their numbers: grey is 0, all on one scale. "
        "Below each, its response, on a scale of its own: vermilion is negative, blue positive."
    )
    heading(figure, title, text)
    return figure


def in_colour(filter: np.ndarray, largest: float) -> np.ndarray:
    """(3, k, k) as uint8: 0 is mid-grey, +-`largest` the ends of each colour."""
    return np.clip(127.5 + 127.5 * filter / largest, 0, 255).round().astype(np.uint8)


def _show_response(axes: Axes, response: np.ndarray) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    signs = LinearSegmentedColormap.from_list("signs", ["#d55e00", "#f4f4f4", "#0072b2"])
    largest = max(float(np.abs(response).max()), 1e-12)
    axes.imshow(response, cmap=signs, vmin=-largest, vmax=largest, interpolation="nearest")
    bare(axes)
