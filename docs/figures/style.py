"""The look of all figures: colours that the colour-blind tell apart and that print in grey.

The colours are those of Okabe and Ito (2008). Each kind of array keeps its colour through the whole
tutorial: the input blue, the weights orange, the output green, gradients vermilion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

INK, GREY, PALE = "#222222", "#777777", "#dddddd"
BLUE, ORANGE, GREEN, RED, SKY, PURPLE = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#56b4e9",
    "#cc79a7",
)
TINT = {BLUE: "#d3e6f2", ORANGE: "#fbeccb", GREEN: "#cfece3", RED: "#f8ddca", GREY: "#eeeeee"}
"""A light tone of each colour, for cells with a number in them."""

matplotlib.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "mathtext.fontset": "cm",
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 10.5,
        "figure.facecolor": "white",
        "lines.linewidth": 1.8,
        "savefig.bbox": "tight",
        "savefig.pad_inches": 0.08,
        "svg.fonttype": "path",
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
)


def figure(kind: str | Callable = "svg") -> Callable:
    """Mark a function as one that draws a figure, an SVG or, with `@figure("png")`, a PNG."""
    if callable(kind):
        return kind
    return lambda function: function


def canvas(width: float, height: float, scale: float = 1.0) -> tuple[Figure, Axes]:
    """A figure for drawing: `width` x `height` units, y downwards as in an image, no axes.

    `scale` is inches per unit.
    """
    fig = Figure(figsize=(width * scale, height * scale))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.set_aspect("equal")
    ax.axis("off")
    return fig, ax


def number(value: float) -> str:
    """A number as short as it can be, with a real minus sign."""
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def grid(
    ax: Axes,
    x: float,
    y: float,
    values: Sequence,
    color: str,
    *,
    cell: float = 1.0,
    size: float = 10,
    fills: np.ndarray | None = None,
) -> None:
    """Draw a table with its upper left corner at (x, y): numbers, or texts, in tinted cells.

    `fills` (the shape of the table) holds a colour for each cell, or None for the usual one.
    """
    table = np.atleast_2d(np.array(values, dtype=object))
    for (row, column), value in np.ndenumerate(table):
        fill = TINT.get(color, "white") if fills is None else fills[row, column]
        left, top = x + column * cell, y + row * cell
        ax.add_patch(
            Rectangle((left, top), cell, cell, facecolor=fill, edgecolor=color, linewidth=0.9)
        )
        text = value if isinstance(value, str) else number(value)
        ax.text(left + cell / 2, top + cell / 2, text, ha="center", va="center", fontsize=size)


def frame(
    ax: Axes, x: float, y: float, width: float, height: float, color: str, linewidth: float = 2.6
) -> None:
    """Draw a thick frame around something."""
    ax.add_patch(
        Rectangle((x, y), width, height, fill=False, edgecolor=color, linewidth=linewidth, zorder=4)
    )


def arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    color: str = INK,
    *,
    bend: float = 0.0,
    width: float = 1.4,
    style: str = "-|>",
) -> None:
    """Draw an arrow from `start` to `end`; `bend` is how far it bows."""
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=style,
            mutation_scale=11,
            color=color,
            linewidth=width,
            connectionstyle=f"arc3,rad={bend}",
            shrinkA=0,
            shrinkB=0,
            zorder=5,
        )
    )


def label(ax: Axes, x: float, y: float, text: str, color: str = INK, **kwargs) -> None:
    """Write text, centred at (x, y) unless told otherwise."""
    ax.text(x, y, text, color=color, **{"ha": "center", "va": "center", **kwargs})
