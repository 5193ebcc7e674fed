"""The course of the learning rate: as planned, and as a run has logged it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from minires.analysis.pictures.style import Theme, heading, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Course:
    """Learning rates over epochs, and the momentum where it moves too."""

    name: str
    epochs: Sequence[float]
    rates: Sequence[float]
    momentum: Sequence[float] = field(default_factory=tuple)


def draw_schedule(
    theme: Theme,
    courses: Sequence[Course],
    logged: Sequence[tuple[float, float]] = (),
    title: str = "",
) -> Figure:
    """Every course in its own axes, on one scale; `logged` (epoch, rate) as points over the first.

    With a momentum that moves, the momentum has axes below.
    """
    first = courses[0]
    moving = len(courses) == 1 and bool(first.momentum)
    wide = len(courses) > 1
    figure = new_figure(2.5 * len(courses) if wide else 6.4, 5.4 if moving else 3.2)
    figure.subplots(2 if moving else 1, len(courses), sharex=True, sharey="row")
    cells = figure.axes
    for index, (axes, course) in enumerate(zip(cells, courses, strict=False)):
        color = theme.series[index % len(theme.series)]
        axes.plot(course.epochs, course.rates, color=color, label="planned")
        axes.set_title(course.name, loc="left", fontsize=11)
        axes.set_xlabel("epoch")
    if logged:
        x, y = zip(*logged, strict=True)
        cells[0].plot(x, y, "o", color=theme.wrong, markersize=3, label="logged", zorder=3)
        cells[0].legend()
    cells[0].set_ylabel("learning rate")
    cells[0].set_ylim(bottom=0)
    cells[0].set_xlim(0, max(first.epochs))
    if moving:
        cells[0].set_xlabel("")
        cells[1].plot(first.epochs, first.momentum, color=theme.series[2])
        cells[1].set_ylabel("momentum")
        cells[1].set_xlabel("epoch")
    for axes in cells:
        axes.grid()
    if title:
        heading(figure, title, first.name if len(cells) == 1 else "")
    return figure
