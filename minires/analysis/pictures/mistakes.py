"""The mistakes that the network was surest of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minires.analysis.pictures.images import grid_shape, show_image
from minires.analysis.pictures.style import Theme, bare, heading, new_figure
from minires.analysis.predictions import Predictions
from minires.backend import to_host
from minires.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 8
FEWEST = 4


def surest_mistakes(answers: Predictions, count: int) -> np.ndarray:
    """The places in `answers` of the wrong ones with the highest confidence, the surest first."""
    wrong = np.flatnonzero(~answers.correct)
    order = np.argsort(-answers.confidence[wrong], kind="stable")
    return wrong[order[:count]]


def draw_mistakes(theme: Theme, answers: Predictions, title: str, count: int = 24) -> Figure:
    """The surest mistakes as a grid: above each image the answer, below it the true class.

    Raises `UsageError` where there is no mistake.
    """
    places = surest_mistakes(answers, count)
    if not len(places):
        raise UsageError(f"--split {answers.split}: every answer is right, no mistake can be drawn")
    rows, columns = grid_shape(max(len(places), FEWEST), COLUMNS)
    figure = new_figure(1.28 * columns, 1.62 * rows + 0.75)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    names = answers.class_names
    images = to_host(answers.images.images)
    for axes, place in zip(cells, places, strict=False):
        show_image(axes, images[answers.indices[place]])
        given = f"{names[answers.answers[place]]} {answers.confidence[place]:.1%}"
        axes.set_title(given, fontsize=8.5, color=theme.wrong, pad=3)
        axes.set_xlabel(names[answers.labels[place]], fontsize=8.5, color=theme.right, labelpad=3)
    for axes in cells[len(places) :]:
        bare(axes)
    wrong = int((~answers.correct).sum())
    text = f"above: the answer and how sure it was; below: the label. {wrong:,} answers are wrong"
    heading(figure, title, text)
    return figure
