"""The course of trainings: one run in full, or several against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from minires.analysis.pictures.style import Theme, new_figure
from minires.training.curves import Colors, curves_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = list[dict[str, Any]]


def draw_curves(theme: Theme, records: Records, title: str) -> Figure | None:
    """Loss, accuracy and learning rate of one run; None where nothing has been logged."""
    colors = Colors(*theme.series[:3], best=theme.ink, grid=theme.grid)
    figure = curves_figure(records, "", colors)
    if figure is not None:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def draw_comparison(theme: Theme, runs: Mapping[str, Records], title: str = "") -> Figure:
    """Loss and error of several runs, by name: training dashed, validation in full lines."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(10.0, 4.2)
    loss, error = figure.subplots(1, 2)
    for index, (name, records) in enumerate(runs.items()):
        color = theme.series[index % len(theme.series)]
        epochs = [r for r in records if r["kind"] == "epoch"]
        _lines(loss, epochs, "loss", color, name, lambda value: value)
        _lines(error, epochs, "accuracy", color, name, lambda value: 100 * (1 - value))
    for axes, label in ((loss, "loss"), (error, "error (%)")):
        axes.set_title(label, loc="left", fontsize=11)
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid()
    loss.plot([], [], color=theme.muted, linestyle="--", linewidth=1.2, label="in training")
    loss.plot([], [], color=theme.muted, label="in validation")
    handles, labels = loss.get_legend_handles_labels()
    columns = min(len(labels), 6)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def _lines(axes: Axes, epochs: Records, what: str, color: str, name: str, of: Any) -> None:
    # The mean over an epoch belongs to its middle, the validation to its end.
    training = [r for r in epochs if r.get(f"train_{what}") is not None]
    x = [r["progress"] - 0.5 for r in training]
    y = [of(r[f"train_{what}"]) for r in training]
    axes.plot(x, y, color=color, linestyle="--", linewidth=1.2)
    held_out = [r for r in epochs if r.get(f"val_{what}") is not None]
    x = [r["progress"] for r in held_out]
    y = [of(r[f"val_{what}"]) for r in held_out]
    axes.plot(x, y, color=color, marker="o" if len(x) <= 20 else None, markersize=4, label=name)
