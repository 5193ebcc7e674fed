"""The course of a training; `compare` draws several against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minires.analysis.pictures.style import Theme, heading
from minires.training.curves import Colors, curves_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_curves(theme: Theme, records: list[dict[str, Any]], title: str) -> Figure | None:
    """Loss, accuracy and learning rate of one run; None where nothing has been logged.

    records: the lines of the run's log.
    """
    colors = Colors(*theme.series[:3], best=theme.ink, grid=theme.grid)
    figure = curves_figure(records, "", colors)
    if figure is not None:
        heading(figure, title)
    return figure
