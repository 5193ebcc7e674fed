"""The picture of a sweep: accuracy per trial, and against the options that tell most."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minires.atomic import write_atomically
from minires.sweep.space import shown

MOST_PANELS = 4
MOST_NAMES = 30

# Okabe and Ito's palette, and a shape of its own for each state: none needs colour to be told.
STYLES = {
    "finished": {"color": "#0072B2", "marker": "o"},
    "pruned": {"color": "#E69F00", "marker": "v"},
    "running": {"color": "#009E73", "marker": "s"},
    "cut off": {"color": "#CC79A7", "marker": "D"},
}
FAILED = {"color": "#D55E00", "marker": "x"}
GRID = "#d8d8d8"

Row = Mapping[str, Any]


def draw_sweep(
    rows: Sequence[Row], options: Sequence[str], log: Sequence[str], path: Path, title: str
) -> None:
    """Draw the rows of a report as a PNG at `path`; the old picture stays until it is whole.

    options: the most telling first; those that have one value alone get no panel. log: the
    options with a logarithmic axis. `OSError` if `path` cannot be written.
    """
    from matplotlib.figure import Figure

    panels = [key for key in options if len(_distinct(rows, key)) > 1][:MOST_PANELS]
    lines = (len(panels) + 1) // 2
    figure = Figure(figsize=(10, 3.6 + 3.0 * lines), dpi=120, layout="constrained")
    grid = figure.add_gridspec(1 + lines, 2, height_ratios=[1.2] + [1] * lines)
    _draw_trials(figure.add_subplot(grid[0, :]), rows)
    for index, key in enumerate(panels):
        alone = len(panels) % 2 and index == len(panels) - 1
        place = grid[1 + index // 2, slice(None) if alone else index % 2]
        _draw_option(figure.add_subplot(place), rows, key, key in log)
    figure.suptitle(title, fontsize=12)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    write_atomically(path, png.getvalue())


def _draw_trials(axes: Any, rows: Sequence[Row]) -> None:
    """Accuracy of each trial in order, and the best so far."""
    _scatter(axes, rows, [row["trial"] for row in rows], label=True)
    failed = [row["trial"] for row in rows if row["state"] == "failed"]
    if failed:
        bottom = axes.get_xaxis_transform()
        axes.plot(
            failed, [0.03] * len(failed), transform=bottom, linestyle="none", label="failed",
            clip_on=False, **FAILED,
        )  # fmt: skip
    finished = [row for row in rows if row["state"] == "finished"]
    best, steps = 0.0, []
    for row in finished:
        best = max(best, 100 * row["val_accuracy"])
        steps.append((row["trial"], best))
    if steps:
        steps.append((rows[-1]["trial"], best))
        axes.step(*zip(*steps, strict=True), where="post", color="#000000", linewidth=1, zorder=1,
                  linestyle=":", label=f"best so far, {best:.2f}% at the end")  # fmt: skip
    axes.set_xlabel("trial")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if any(row["name"] for row in rows) and len(rows) <= MOST_NAMES:
        axes.set_xlabel("")
        names = [f"{row['trial']} {row['name']}" for row in rows]
        axes.set_xticks([row["trial"] for row in rows], names, rotation=30, ha="right", fontsize=8)
    _finish(axes, "validation accuracy per trial")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1, 1), ncols=6, borderaxespad=0, frameon=False,
            fontsize=9,
        )  # fmt: skip


def _draw_option(axes: Any, rows: Sequence[Row], key: str, log: bool) -> None:
    """Accuracy against one option: a number on an axis, anything else as names side by side."""
    values = _distinct(rows, key)
    having = [row for row in rows if row["options"].get(key) is not None]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if numbers and len(values) > 4:
        _scatter(axes, having, [row["options"][key] for row in having])
        if log or (min(values) > 0 and max(values) >= 30 * min(values)):
            axes.set_xscale("log")
    else:
        order = sorted(values) if numbers else values
        places = [order.index(row["options"][key]) for row in having]
        _scatter(axes, having, places)
        axes.set_xticks(range(len(order)), [shown(v) for v in order], fontsize=9)
        axes.set_xlim(-0.5, len(order) - 0.5)
        _draw_means(axes, having, places)
    axes.set_xlabel(key)
    _finish(axes, f"against {key}")


def _draw_means(axes: Any, rows: Sequence[Row], places: Sequence[int]) -> None:
    """A short line at the mean of the finished trials of each value."""
    for place in sorted(set(places)):
        group = [
            100 * row["val_accuracy"]
            for row, where in zip(rows, places, strict=True)
            if where == place and row["state"] == "finished"
        ]
        if len(group) > 1:
            mean = sum(group) / len(group)
            axes.hlines(mean, place - 0.2, place + 0.2, color="#000000", linewidth=1.2)
            axes.annotate(f"{mean:.1f}", (place + 0.22, mean), fontsize=8, va="center")


def _scatter(axes: Any, rows: Sequence[Row], xs: Sequence[float], label: bool = False) -> None:
    for state, style in STYLES.items():
        chosen = [
            (x, 100 * row["val_accuracy"])
            for x, row in zip(xs, rows, strict=True)
            if row["state"] == state and row["val_accuracy"] is not None
        ]
        if chosen:
            name = state if label else None
            axes.plot(*zip(*chosen, strict=True), linestyle="none", label=name, alpha=0.9, **style)


def _finish(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylabel("accuracy (%)")
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)


def _distinct(rows: Sequence[Row], key: str) -> list[Any]:
    """The values that `key` takes in the rows, in the order of their coming."""
    found: list[Any] = []
    for row in rows:
        value = row["options"].get(key)
        if value is not None and value not in found:
            found.append(value)
    return found
