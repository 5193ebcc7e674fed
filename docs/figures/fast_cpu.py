"""The figures of chapter 14: the ladder, the roofline, Winograd, memory order, phases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    RED,
    TINT,
    arrow,
    canvas,
    figure,
    frame,
    grid,
    label,
)

LADDER = "results/ladder-cpu.json"


def ladder_record() -> dict:
    """The recorded climb."""
    return json.loads((Path(__file__).parent.parent / LADDER).read_text(encoding="utf-8"))


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


@figure
def ladder() -> Figure:
    """The rungs as bars of GFLOP/s on a logarithmic axis."""
    record = ladder_record()
    rows, peak = record["rungs"], record["machine"]["gemm_flops_per_second_one_thread"] / 1e9
    fig = Figure(figsize=(7.4, 0.52 * len(rows) + 1.1))
    ax = fig.subplots()
    rates = [row["flops_per_second"] / 1e9 for row in rows]
    low = 0.005
    ax.set_xscale("log")
    ax.set_xlim(low, 1000)
    ax.barh(range(len(rows)), [rate - low for rate in rates], left=low, height=0.62, color=BLUE)
    ax.set_yticks(range(len(rows)), [row["name"] for row in rows])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    for index, (rate, row) in enumerate(zip(rates, rows, strict=True)):
        text = f"{rate:.2g}" if rate < 99.5 else f"{rate:.0f}"
        inside = rate > 0.1
        x, color, side = (rate / 1.15, "white", "right") if inside else (rate * 1.15, INK, "left")
        label(ax, x, index, text, color, ha=side, fontsize=9.5, zorder=6)
        ax.text(
            1.02,
            index,
            _duration(row["seconds_per_image"]),
            transform=ax.get_yaxis_transform(),
            va="center",
        )
    ax.text(1.02, -0.85, "per image", transform=ax.get_yaxis_transform(), va="center", color=GREY)
    ax.axvline(peak, color=RED, linewidth=1.3, linestyle="--", zorder=5)
    label(ax, peak * 0.9, -0.85, f"matrix product, one thread: {peak:.0f}", RED, ha="right")
    ax.set_ylim(len(rows) - 0.4, -1.2)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlabel("GFLOP/s, counted as direct convolution (logarithmic)")
    return fig


def intensities(channels: int = 64) -> dict[str, float]:
    """FLOP per byte moved, float32: one 3 x 3 convolution written in three ways, and additions."""
    flops, array = 2 * 9 * channels**2, 4 * channels  # of one pixel
    return {
        "a + b": 1 / 12,
        "batch norm and ReLU": 3 / 8,
        "convolution\nby im2col": flops / (20 * array),
        "convolution, each\narray moved once": flops / (2 * array),
    }


@figure
def roofline() -> Figure:
    """What one thread can reach, by how much it computes for each byte that it moves."""
    machine = ladder_record()["machine"]
    peak = machine["gemm_flops_per_second_one_thread"] / 1e9
    stream = machine["memory_bytes_per_second_one_thread"] / 1e9
    fig = Figure(figsize=(6.9, 3.9))
    ax = fig.subplots()
    ax.set_xscale("log")
    ax.set_yscale("log")
    x = np.geomspace(0.03, 600, 400)
    roof = np.minimum(stream * x, peak)
    ax.fill_between(x, 0.1, roof, color=TINT[BLUE], linewidth=0)
    ax.plot(x, roof, color=BLUE)
    ridge = peak / stream
    ax.plot([ridge, ridge], [0.1, peak], color=BLUE, linewidth=1, linestyle=":")
    for name, intensity in intensities().items():
        top = min(stream * intensity, peak)
        ax.plot([intensity], [top], "o", color=INK, markersize=6, zorder=6)
        left = intensity > ridge
        offset = (0, -10) if left else (8, -9)
        ax.annotate(
            name,
            (intensity, top),
            xytext=offset,
            textcoords="offset points",
            ha="center" if left else "left",
            va="top",
            fontsize=9.5,
        )
    rates = {row["name"]: row["flops_per_second"] / 1e9 for row in ladder_record()["rungs"]}
    reached = rates["im2col and GEMM"]
    intensity = intensities()["convolution\nby im2col"]
    ax.plot([intensity], [reached], "o", color=RED, markerfacecolor="white", zorder=6)
    label(ax, intensity * 1.2, reached, f"reached: {reached:.0f}", RED, ha="left", fontsize=9.5)
    label(ax, 0.035, 22, f"memory: {stream:.0f} GB/s", BLUE, fontsize=10, ha="left")
    label(ax, ridge * 1.5, peak * 1.45, f"arithmetic: {peak:.0f} GFLOP/s", BLUE, ha="left")
    label(ax, ridge * 0.92, 0.16, f"{ridge:.0f} FLOP for each byte", BLUE, ha="right", fontsize=9)
    ax.set_xlim(0.03, 600)
    ax.set_ylim(0.1, peak * 2.4)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlabel("arithmetic intensity: FLOP for each byte from or to memory")
    ax.set_ylabel("GFLOP/s at most")
    return fig


@figure
def winograd_row() -> Figure:
    """F(2, 3): four inputs and three weights become four products, and these two outputs."""
    fig, ax = canvas(19.6, 7.9, 0.42)
    d, w = (5, 1, 2, 4), (1, 2, 3)
    v = (d[0] - d[2], d[1] + d[2], d[2] - d[1], d[3] - d[1])
    u = (w[0], (w[0] + w[1] + w[2]) / 2, (w[0] - w[1] + w[2]) / 2, w[2])
    m = [a * b for a, b in zip(v, u, strict=True)]
    label(ax, 0.5, 0.4, "input", BLUE, fontsize=11)
    label(ax, 4.3, 0.4, "transformed", BLUE, fontsize=11)
    label(ax, 9.4, 0.4, "filter, transformed", ORANGE, fontsize=11)
    label(ax, 14.3, 0.4, "products", INK, fontsize=11)
    label(ax, 18.2, 0.4, "outputs", GREEN, fontsize=11)
    names_v = ("$d_0-d_2$", "$d_1+d_2$", "$d_2-d_1$", "$d_3-d_1$")
    names_u = ("$w_0$", "$(w_0+w_1+w_2)/2$", "$(w_0-w_1+w_2)/2$", "$w_2$")
    for k in range(4):
        y = 1.4 + 1.65 * k
        grid(ax, 0, y, [[d[k]]], BLUE)
        label(ax, -0.45, y + 0.5, f"$d_{k}$", BLUE, fontsize=11)
        label(ax, 4.5, y + 0.5, names_v[k], BLUE, fontsize=11, ha="right")
        grid(ax, 4.7, y, [[v[k]]], BLUE)
        label(ax, 6.3, y + 0.5, r"$\times$", fontsize=12)
        grid(ax, 6.9, y, [[u[k]]], ORANGE)
        label(ax, 8.1, y + 0.5, names_u[k], ORANGE, fontsize=11, ha="left")
        label(ax, 13.1, y + 0.5, "=", fontsize=12)
        grid(ax, 13.7, y, [[m[k]]], GREY)
        label(ax, 14.95, y + 0.5, f"$m_{k}$", fontsize=11, ha="left")
    for y, text, value in (
        (2.4, "$m_0+m_1+m_2=y_0$", m[0] + m[1] + m[2]),
        (5.2, "$m_1-m_2+m_3=y_1$", m[1] - m[2] + m[3]),
    ):
        grid(ax, 17.7, y, [[value]], GREEN)
        label(ax, 18.2, y + 1.45, text, GREEN, fontsize=11)
    return fig


@figure
def winograd_tiles() -> Figure:
    """Windows of 6 x 6 for tiles of 4 x 4 outputs: neighbours overlap by two pixels."""
    fig, ax = canvas(17.0, 11.6, 0.4)
    top = 1.2
    for i, j in np.ndindex(10, 10):
        edge = i in (0, 9) or j in (0, 9)
        ax.add_patch(
            Rectangle((j, top + i), 1, 1, facecolor="white" if edge else TINT[BLUE], edgecolor=PALE)
        )
    frame(ax, 0.06, top + 0.06, 5.88, 5.88, RED)
    frame(ax, 4.06, top + 0.12, 5.88, 5.88, PURPLE)
    label(ax, 5, 0.5, "input with its border", fontsize=11)
    label(ax, 5, top + 10.4 - 0.02, "windows of 6 \u00d7 6, four pixels apart", GREY, fontsize=10)
    for i, j in np.ndindex(8, 8):
        ax.add_patch(
            Rectangle(
                (8 * 0 + 13 - 1 + j * 0.6, top + 2.6 + i * 0.6),
                0.6,
                0.6,
                facecolor=TINT[GREEN],
                edgecolor="white",
            )
        )
    frame(ax, 12.06, top + 2.66, 2.28, 2.28, RED)
    frame(ax, 14.46, top + 2.66, 2.28, 2.28, PURPLE)
    label(ax, 14.4, 0.5 + 2.4, "output", fontsize=11)
    label(ax, 14.4, top + 2.6 + 4.8 + 0.5, "tiles of 4 \u00d7 4", GREY, fontsize=10)
    arrow(ax, (10.3, top + 3.6), (11.7, top + 3.6), INK)
    return fig


@figure
def memory_order() -> Figure:
    """The same four pixels of three images and two channels in two memory orders."""
    fig, ax = canvas(19.6, 7.4, 0.4)
    colors = {0: BLUE, 1: ORANGE, 2: GREEN}
    orders = {
        "(N, C, H, W)": [(n, c, p) for n in range(3) for c in range(2) for p in range(3)],
        "(H, W, N, C)": [(n, c, p) for p in range(3) for n in range(3) for c in range(2)],
    }
    for row, (name, order) in enumerate(orders.items()):
        y = 1.6 + 3.2 * row
        label(ax, 0, y + 0.5, name, fontsize=11, ha="left")
        for index, (n, c, p) in enumerate(order):
            x = 4.2 + 0.85 * index
            wanted = p == 1
            ax.add_patch(
                Rectangle(
                    (x, y),
                    0.85,
                    1.0,
                    facecolor=TINT[colors[n]] if wanted else "white",
                    edgecolor=colors[n] if wanted else PALE,
                    linewidth=1.2,
                    zorder=3 if wanted else 2,
                )
            )
            label(ax, x + 0.42, y + 0.34, f"p{p}", INK if wanted else GREY, fontsize=8, zorder=4)
            label(ax, x + 0.42, y + 0.7, f"c{c}", INK if wanted else GREY, fontsize=8, zorder=4)
        for index in range(3) if row == 0 else ():
            x = 4.2 + 0.85 * (6 * index + 3)
            label(ax, x, y - 0.4, f"image {index}", colors[index], fontsize=10)
    label(ax, 4.2 + 0.85 * 9, 1.6 + 3.2 - 0.4, "pixel 1 of all images, all channels", fontsize=10)
    frame(ax, 4.2 + 0.85 * 6, 4.8, 0.85 * 6, 1.0, INK, linewidth=2.2)
    label(ax, 4.2, 6.5, "memory, from left to right", GREY, fontsize=10, ha="left")
    arrow(ax, (9.6, 6.5), (13.0, 6.5), GREY)
    return fig


@figure
def phases() -> Figure:
    """With stride 2 the outer taps meet the even places only, the middle tap the odd ones."""
    fig, ax = canvas(17.2, 7.6, 0.42)
    cells = 9
    fills = np.array([[TINT[BLUE] if k % 2 == 0 else TINT[ORANGE] for k in range(cells)]])
    names = [f"$d_{k}$" for k in range(cells)]
    grid(ax, 2.2, 0.9, [names], GREY, fills=fills, size=11)
    for index in range(4):
        y = 2.25 + 0.32 * index
        start = 2.2 + 2 * index
        ax.plot([start + 0.1, start + 2.9], [y, y], color=GREEN, linewidth=3.0)
    label(ax, 1.8, 1.4, "input", ha="right", fontsize=11)
    label(ax, 1.8, 2.72, "windows", GREEN, ha="right", fontsize=11)
    evens, odds = [f"$e_{k}$" for k in range(5)], [f"$f_{k}$" for k in range(4)]
    grid(ax, 2.2, 4.9, [evens], BLUE, size=11)
    grid(ax, 9.0, 4.9, [odds], ORANGE, size=11)
    label(ax, 4.7, 4.4, "even places", BLUE, fontsize=11)
    label(ax, 11.0, 4.4, "odd places", ORANGE, fontsize=11)
    label(ax, 4.7, 6.45, "two taps: $w_0 e_i+w_2 e_{i+1}$", fontsize=11)
    label(ax, 4.7, 7.15, "5 products for 4 outputs", GREY, fontsize=10)
    label(ax, 11.0, 6.45, "one tap: $w_1 f_i$", fontsize=11)
    label(ax, 11.0, 7.15, "4 products for 4 outputs", GREY, fontsize=10)
    label(ax, 7.95, 5.4, "+", fontsize=14)
    return fig


@figure
def strip() -> Figure:
    """One row of two images in memory, and the windows of three pixels as three matrices."""
    fig, ax = canvas(18.4, 6.6, 0.42)
    names = ["0", *(f"$a_{k}$" for k in range(4)), "0", *(f"$b_{k}$" for k in range(4)), "0"]
    colors = [PALE, *[TINT[BLUE]] * 4, PALE, *[TINT[ORANGE]] * 4, PALE]
    left, size = 3.4, 1.2
    for index, (name, color) in enumerate(zip(names, colors, strict=True)):
        ax.add_patch(
            Rectangle((left + size * index, 0.9), size, size, facecolor=color, edgecolor=GREY)
        )
        label(ax, left + size * (index + 0.5), 0.9 + size / 2, name, fontsize=11)
    label(ax, left - 0.4, 1.5, "a strip", ha="right", fontsize=11)
    for first, color in enumerate((GREEN, PURPLE, RED)):
        y = 3.0 + 1.0 * first
        for start in range(first, len(names) - 2, 3):
            at = left + size * start
            ax.plot([at + 0.12, at + 3 * size - 0.12], [y, y], color=color, linewidth=3.4)
        ordinal = ("first", "second", "third")[first]
        label(ax, left - 0.4, y, f"{ordinal} matrix", color, ha="right", fontsize=11)
    label(ax, left, 6.1, "each bar is one row of a matrix: 3 C numbers", GREY, ha="left")
    return fig
