"""How large the numbers are, layer by layer: before the training, and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from minires.analysis.pictures.style import Theme, heading, new_figure
from minires.analysis.signals import Signal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_statistics(theme: Theme, networks: Mapping[str, Sequence[Signal]], title: str) -> Figure:
    """Four measures over the layers, in the order in which they run, for networks of one shape.

    networks: the signals of each network by a word for it; the first two are told apart by colour
    and marker.
    """
    layers = [signal.name for signal in next(iter(networks.values()))]
    figure = new_figure(max(7.0, 0.3 * len(layers) + 2.0), 9.4)
    cells = figure.subplots(4, 1, sharex=True, height_ratios=(1.5, 1, 1, 1))
    places = np.arange(len(layers))
    for index, (word, measured) in enumerate(networks.items()):
        color, marker = theme.series[index], "os"[index]
        quantiles = np.array([signal.entering for signal in measured])
        cells[0].fill_between(places, quantiles[:, 0], quantiles[:, 2], color=color, alpha=0.2)
        lines = (
            quantiles[:, 1],
            [100 * signal.zeros for signal in measured],
            [signal.gradient for signal in measured],
            [signal.update for signal in measured],
        )
        for axes, values in zip(cells, lines, strict=True):
            axes.plot(places, values, color=color, marker=marker, markersize=4, label=word)
    _label(cells, layers)
    handles, words = cells[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside upper right", ncols=2, frameon=False)
    heading(figure, title)
    return figure


def _label(cells: Sequence[Axes], layers: Sequence[str]) -> None:
    titles = (
        "values that enter: median, and 5% to 95%",
        "zeros among them (%)",
        "gradient of the output (root mean square)",
        "gradient of the weight by the weight (norms)",
    )
    for axes, title in zip(cells, titles, strict=True):
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid()
    cells[1].set_ylim(-3, 100)
    cells[2].set_yscale("log")
    cells[3].set_yscale("log")
    cells[3].set_xticks(range(len(layers)), layers, rotation=90, fontsize=8)
    cells[3].set_xlim(-0.5, len(layers) - 0.5)
