"""Whether 80% sure means right in 80% of the cases: the reliability diagram."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minires.analysis.metrics import Calibration, wilson_interval
from minires.analysis.pictures.style import Theme, heading, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_calibration(theme: Theme, result: Calibration, title: str) -> Figure:
    """Accuracy over confidence in bins, with the gap between them; below, where the answers lie.

    Source: Guo et al. 2017, "On calibration of modern neural networks", figures 1 and 4.
    """
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(5.6, 6.6)
    axes, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    width = np.diff(result.edges)
    known = result.counts > 0
    left, accuracy, confidence = (
        values[known] for values in (result.edges[:-1], result.accuracy, result.confidence)
    )
    bars = {"width": width[known], "align": "edge"}
    axes.bar(left, accuracy, color=theme.right, edgecolor=theme.paper, label="accuracy", **bars)
    axes.bar(
        left,
        confidence - accuracy,
        bottom=accuracy,
        fill=False,
        hatch="////",
        edgecolor=theme.wrong,
        linewidth=1,
        label="gap to the confidence",
        **bars,
    )
    low, high = wilson_interval(accuracy * result.counts[known], result.counts[known])
    axes.errorbar(
        left + width[known] / 2,
        accuracy,
        yerr=np.abs([accuracy - low, high - accuracy]),
        fmt="none",
        ecolor=theme.ink,
        elinewidth=1.2,
        capsize=2.5,
        label="95% interval",
    )
    axes.plot([0, 1], [0, 1], "--", color=theme.ink, linewidth=1.2, label="perfect")
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of right answers")
    handles, words = axes.get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=2, frameon=False)
    histogram.bar(left, result.counts[known], color=theme.muted, edgecolor=theme.paper, **bars)
    histogram.set_yscale("log")
    histogram.set_ylabel("images")
    histogram.set_xlabel("confidence of the answer")
    histogram.set_xlim(0, 1)
    histogram.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    for part in (axes, histogram):
        part.set_axisbelow(True)
        part.grid()
    total = result.counts.sum()
    mean = float((result.confidence[known] * result.counts[known]).sum() / total)
    hits = float((result.accuracy[known] * result.counts[known]).sum() / total)
    axes.set_title(
        f"accuracy {hits:.1%}, mean confidence {mean:.1%}, ECE {result.ece:.2%}",
        loc="left",
        fontsize=10,
    )
    heading(figure, title)
    return figure
