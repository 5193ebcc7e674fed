"""The loss around trained weights: lines along one direction, maps and surfaces along two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.analysis.landscape import Grid, Plan
from minires.analysis.pictures.style import Theme, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = 18
HIGHEST = 1e4
"""Losses are drawn up to this multiple of the lowest."""


def draw_landscape(theme: Theme, plan: Plan, grids: Sequence[Grid], names: Sequence[str]) -> Figure:
    """Loss (on a logarithmic scale, the same for all) of each network around its weights."""
    losses = [_shown(grid.loss) for grid in grids]
    if plan.dims == 1:
        return _draw_lines(theme, plan, grids, losses, names)
    return _draw_maps(theme, plan, losses, names)


def _shown(loss: np.ndarray) -> np.ndarray:
    """The losses with those that overflowed, or are beyond all measure, cut off."""
    finite = loss[np.isfinite(loss)]
    lowest = max(float(finite.min()), 1e-6) if finite.size else 1.0
    highest = min(float(finite.max()), HIGHEST * lowest) if finite.size else 1.0
    return np.clip(np.nan_to_num(loss, nan=highest, posinf=highest), lowest, highest)


def _draw_lines(
    theme: Theme,
    plan: Plan,
    grids: Sequence[Grid],
    losses: Sequence[np.ndarray],
    names: Sequence[str],
) -> Figure:
    figure = new_figure(9.4, 4.0)
    left, right = figure.subplots(1, 2)
    for index, (grid, loss, name) in enumerate(zip(grids, losses, names, strict=True)):
        style = {"color": theme.series[index % len(theme.series)], "label": name}
        style |= {"marker": "osD^vP"[index % 6], "markevery": max(1, plan.points // 10), "ms": 5}
        left.plot(plan.axis, loss, **style)
        right.plot(plan.axis, 100 * (1 - grid.accuracy), **style)
    left.set_yscale("log")
    right.set_ylim(bottom=0)
    for axes, title in ((left, "loss"), (right, "error (%)")):
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("distance, in lengths of the weights")
        axes.grid()
    handles, words = left.get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_maps(
    theme: Theme, plan: Plan, losses: Sequence[np.ndarray], names: Sequence[str]
) -> Figure:
    """Above contours, below surfaces; a column for each network."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    low, high = min(loss.min() for loss in losses), max(loss.max() for loss in losses)
    norm = LogNorm(low, max(high, 1.001 * low))
    levels = np.geomspace(norm.vmin, norm.vmax, LEVELS)
    columns = len(losses)
    figure = new_figure(max(4.4 * columns + 0.8, 5.5), 8.2)
    grid = figure.add_gridspec(2, columns)
    flat = []
    for column, (loss, name) in enumerate(zip(losses, names, strict=True)):
        axes = figure.add_subplot(grid[0, column])
        flat.append(axes)
        # The first index of the grid goes along the first direction: x.
        shades = axes.contourf(*[plan.axis] * 2, loss.T, levels, norm=norm, cmap=theme.quantity)
        axes.contour(*[plan.axis] * 2, loss.T, levels, colors="black", linewidths=0.35, alpha=0.6)
        axes.plot(0, 0, "+", color="white", markersize=11, markeredgewidth=2)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_aspect("equal")
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 5, 10)))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 5, 10)))
        axes.set_xlabel("first direction")
        if column == 0:
            axes.set_ylabel("second direction")
        _draw_surface(theme, figure.add_subplot(grid[1, column], projection="3d"), plan, loss, norm)
    bar = figure.colorbar(shades, ax=flat, shrink=0.8)
    bar.set_label("loss")
    bar.set_ticks(ticks := _ticks(norm.vmin, norm.vmax), labels=[f"{t:g}" for t in ticks])
    bar.ax.minorticks_off()
    return figure


def _draw_surface(theme: Theme, axes: Any, plan: Plan, loss: np.ndarray, norm: Any) -> None:
    x, y = np.meshgrid(plan.axis, plan.axis, indexing="ij")
    height = np.log10(loss)
    axes.plot_surface(
        x,
        y,
        height,
        facecolors=_colors(theme, norm(loss)),
        rcount=plan.points,
        ccount=plan.points,
        linewidth=0.3,
        edgecolor="black",
        shade=False,
    )
    axes.set_box_aspect((1, 1, 0.75), zoom=1.2)
    axes.set_zlim(np.log10(norm.vmin), np.log10(norm.vmax))
    ticks = _ticks(norm.vmin, norm.vmax)
    axes.set_zticks(np.log10(ticks), [f"{tick:g}" for tick in ticks], fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_zlabel("loss", fontsize=9)
    axes.view_init(elev=38, azim=-60)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color(theme.paper)


def _colors(theme: Theme, shares: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    return colormaps[theme.quantity](np.asarray(shares))


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 or 5 times powers of ten between `low` and `high`; few of them over a wide range."""
    steps = (1,) if high > 300 * low else (1, 2, 5)
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [t for p in powers for s in steps if low <= (t := s * 10.0**p) <= high]
