"""The ladder for people: a table on stdout, and a picture for the tutorial."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

_BLUE, _RED = "#3d6fa5", "#c0392b"


def print_ladder(report: dict[str, Any]) -> None:
    """Print what `climb` returned."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    machine = report["machine"]
    peak = machine["gemm_flops_per_second_one_thread"]
    console.print(
        f"{_describe(report)}, on {machine['cpu']}; "
        f"one thread: matrix product {peak / 1e9:,.0f} GFLOP/s, "
        f"memory {machine['memory_bytes_per_second_one_thread'] / 1e9:,.0f} GB/s",
        soft_wrap=True,
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("why it is faster")
    for heading in ("images", "time per image", "GFLOP/s", "gain", "error"):
        table.add_column(heading, justify="right")
    for row in report["rungs"]:
        table.add_row(
            row["name"],
            row["reason"],
            str(row["images"]),
            duration(row["seconds_per_image"]),
            rate(row["flops_per_second"]),
            "" if row["gain"] is None else f"{row['gain']:,.1f} x",
            f"{row['relative_error']:.0e}" if row["relative_error"] else "",
        )
    console.print(table)
    console.print(
        "GFLOP/s count the multiplications of direct convolution: Winograd does a quarter of them, "
        "so it may pass the peak of the matrix product.",
        soft_wrap=True,
    )


def duration(seconds: float) -> str:
    """Seconds in the unit that suits: 3.1 s, 4.2 ms, 870 µs."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def rate(flops_per_second: float) -> str:
    """GFLOP/s with two or three digits."""
    value = flops_per_second / 1e9
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _describe(report: dict[str, Any]) -> str:
    shape = report["shape"]
    side, channels = shape["size"], shape["channels"]
    return f"One convolution: 3x3, {channels} to {channels} channels, {side}x{side} pixels, float32"


def draw_ladder(report: dict[str, Any], path: Path) -> None:
    """Draw the ladder as bars of GFLOP/s on a logarithmic axis; the file's ending says the format.

    Creates the folder of `path` if it is missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = report["rungs"]
    figure = Figure(figsize=(8, 0.66 * len(rows) + 1.9))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _draw_bars(axes, [row["flops_per_second"] / 1e9 for row in rows])
    _draw_peak(axes, report["machine"]["gemm_flops_per_second_one_thread"] / 1e9)
    _write_names(axes, rows)
    _write_columns(axes, rows)
    axes.set_ylim(len(rows) - 0.45, -0.95)
    axes.set_title(_describe(report), loc="left", x=-0.45, pad=14, fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.2)


def _draw_bars(axes: Any, values: list[float]) -> None:
    """A bar for each rung, and a logarithmic axis with plain numbers."""
    low = 10 ** (math.floor(math.log10(min(values))) - 0.3)
    axes.set_xscale("log")
    axes.set_xlim(low, max(values) * 2)
    axes.barh(range(len(values)), [v - low for v in values], left=low, height=0.6, color=_BLUE)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("GFLOP/s, counted as direct convolution (logarithmic scale)")
    axes.grid(axis="x", color="#e0e0e0", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _draw_peak(axes: Any, peak: float) -> None:
    """A line where a matrix product on one thread stands."""
    low, high = axes.get_xlim()
    axes.set_xlim(low, max(high, peak * 1.5))
    axes.axvline(peak, color=_RED, linewidth=1.3, linestyle="--")
    axes.annotate(
        f"matrix product on one thread: {peak:,.0f}",
        (peak, -0.68),
        xytext=(-6, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        color=_RED,
    )


def _write_names(axes: Any, rows: list[dict[str, Any]]) -> None:
    """To the left of each bar its name, and below it the reason for the gain."""
    axes.set_yticks([])
    for index, row in enumerate(rows):
        for text, offset, style in (
            (row["name"], 7, {"fontweight": "bold", "fontsize": 10}),
            (row["reason"], -7, {"color": "#555555", "fontsize": 9}),
        ):
            axes.annotate(
                text,
                (0, index),
                xycoords=("axes fraction", "data"),
                xytext=(-8, offset),
                textcoords="offset points",
                ha="right",
                va="center",
                **style,
            )


def _write_columns(axes: Any, rows: list[dict[str, Any]]) -> None:
    """To the right of the bars two columns: time per image, and gain over the rung before."""
    lines = [(-0.68, "time per image", "gain", {"color": "#555555", "fontsize": 9})]
    for index, row in enumerate(rows):
        gain = "" if row["gain"] is None else f"{row['gain']:.1f} ×"
        lines.append((index, duration(row["seconds_per_image"]), gain, {"fontsize": 10}))
    for y, time, gain, style in lines:
        for x, text in ((1.17, time), (1.31, gain)):
            axes.annotate(
                text,
                (x, y),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="center",
                annotation_clip=False,
                **style,
            )
