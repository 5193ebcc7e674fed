"""Which classes are taken for which: the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minires.analysis.pictures.style import Theme, fade, heading, ink_on, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NUMBERED = 20
"""With more classes than this, numbers in the cells would be too small to read."""


def draw_confusion(
    theme: Theme, matrix: np.ndarray, class_names: Sequence[str], title: str
) -> Figure:
    """Rows are the true classes, columns the answers; right answers and errors have two colours.

    matrix: int64 (K, K), images of class i (row) taken for class j (column). The darkest error is
    the most frequent one.
    """
    classes = len(class_names)
    numbered = classes <= MOST_NUMBERED
    side = max(4.6, 0.62 * classes) if numbered else 9.5
    figure = new_figure(side + 1.7, side + 1.2)
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    right, wrong = fade(theme, theme.right), fade(theme, theme.wrong)
    worst = max(float((shares * (1 - np.eye(classes))).max()), 1e-9)
    colors = wrong(shares / worst)
    places = np.arange(classes)
    colors[places, places] = right(shares[places, places])
    axes.imshow(colors)
    if numbered:
        _write_counts(axes, matrix, colors)
    size = 10 if numbered else 450 / classes
    axes.set_xticks(places, class_names, rotation=45 if numbered else 90, fontsize=size)
    if numbered:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(places, class_names, fontsize=size)
    axes.tick_params(length=0)
    axes.set_xlabel("answer of the network")
    axes.set_ylabel("true class")
    axes.set_xticks(places[1:] - 0.5, minor=True)
    axes.set_yticks(places[1:] - 0.5, minor=True)
    axes.grid(which="minor", color=theme.grid, linewidth=0.6 if numbered else 0.2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(True)
    hits, images = int(np.trace(matrix)), int(matrix.sum())
    text = f"{hits:,} of {images:,} images on the diagonal are right ({hits / images:.2%})"
    heading(figure, title, text)
    return figure


def _write_counts(axes: Axes, matrix: np.ndarray, colors: np.ndarray) -> None:
    """The images of each cell, the diagonal bold; zeros are left out."""
    diagonal = ink_on(np.diagonal(colors)[:3].mean(axis=1))
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            color = diagonal if row == column else ink_on(colors[row, column, :3])
            axes.text(
                column,
                row,
                f"{count:,}",
                ha="center",
                va="center",
                color=color,
                fontsize=9.5,
                fontweight="bold" if row == column else "normal",
            )


def most_confused(
    matrix: np.ndarray, class_names: Sequence[str], count: int = 5
) -> list[tuple[str, str, int]]:
    """The most frequent errors: (true class, answer, images), the worst first."""
    errors = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    order = np.argsort(-errors, axis=None, kind="stable")[:count]
    pairs = (np.unravel_index(place, errors.shape) for place in order)
    return [(class_names[i], class_names[j], int(errors[i, j])) for i, j in pairs if errors[i, j]]
