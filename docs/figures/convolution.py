"""The figures of chapters 5 and 6: windows, and how both gradients come back through them."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
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

from minires.data import load_dataset
from minires.functional import conv2d_backward, conv2d_forward

X = np.array([[0, 1, 2, 0], [1, 3, 1, 0], [2, 1, 0, 1], [0, 0, 1, 2.0]])
W = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1.0]])
SMALL_W = np.array([[1, 2], [3, 4.0]])
SMALL_X = np.arange(9.0).reshape(3, 3)
G = np.array([[1, -1], [2, 1.0]])


def convolve(x: np.ndarray, w: np.ndarray, stride: int = 1, padding: int = 0) -> np.ndarray:
    """One image and one filter."""
    return conv2d_forward(x[None, None], w[None, None], None, stride, padding)[0][0, 0]


@figure
def windows() -> Figure:
    """Two windows of an image, the filter, and the two outputs that they give."""
    fig, ax = canvas(15.2, 5.2, 0.46)
    y = convolve(X, W)
    label(ax, 2, 0.45, "input, 4 \u00d7 4", fontsize=11)
    label(ax, 7.6, 0.45, "filter, 3 \u00d7 3", fontsize=11)
    label(ax, 13.2, 0.45, "output, 2 \u00d7 2", fontsize=11)
    grid(ax, 0.05, 1, X, BLUE)
    grid(ax, 6.1, 1.5, W, ORANGE)
    grid(ax, 12.2, 2, y, GREEN)
    frame(ax, 0.11, 1.06, 2.88, 2.88, INK)
    frame(ax, 1.17, 2.06, 2.82, 2.88, PURPLE)
    frame(ax, 12.24, 2.04, 0.92, 0.92, INK)
    frame(ax, 13.24, 3.04, 0.92, 0.92, PURPLE)
    label(ax, 5.05, 3, r"$\odot$", fontsize=15)
    arrow(ax, (9.4, 2.6), (12.0, 2.5), INK)
    arrow(ax, (9.4, 3.4), (12.0, 3.5), PURPLE)
    label(ax, 10.6, 2.05, "multiply, sum", fontsize=9)
    return fig


@figure
def padding_stride() -> Figure:
    """The window's places along a row, without padding, with it, and with stride 2."""
    fig, ax = canvas(15.6, 8.2, 0.44)
    rows = [
        ("padding 0, stride 1", 0, 1),
        ("padding 1, stride 1", 1, 1),
        ("padding 1, stride 2", 1, 2),
    ]
    top = 0.3
    for title, padding, stride in rows:
        cells = [0] * padding + [3, 1, 4, 1, 5] + [0] * padding
        left = 6.6 - padding
        edges = np.array(
            [["white"] * padding + [TINT[BLUE]] * 5 + ["white"] * padding], dtype=object
        )
        grid(ax, left, top, [cells], BLUE, fills=edges)
        label(ax, 0, top + 0.5, title, fontsize=11, ha="left")
        count = (5 + 2 * padding - 3) // stride + 1
        for index in range(count):
            start = left + stride * index
            y = top + 1.22 + 0.26 * index
            ax.plot([start + 0.08, start + 2.92], [y, y], color=GREEN, linewidth=3.2)
        label(ax, 13.4, top + 0.5, f"{count} windows", fontsize=11, ha="left")
        top += 3.3 if padding == 1 and stride == 1 else 2.8
    return fig


@figure
def window_matrix() -> Figure:
    """Each window as a row of a matrix: a convolution is one matrix product."""
    fig, ax = canvas(16.4, 6.2, 0.43)
    x = SMALL_X + 1
    views = np.lib.stride_tricks.sliding_window_view(x, (2, 2)).reshape(4, 4)
    grid(ax, 0.05, 1.5, x, BLUE)
    label(ax, 1.5, 0.95, "input", fontsize=11)
    frame(ax, 0.11, 1.56, 1.88, 1.88, INK)
    arrow(ax, (3.3, 3.0), (4.7, 3.0))
    grid(ax, 5, 1, views, BLUE)
    label(ax, 7, 0.45, "one window in each row", fontsize=11)
    frame(ax, 5.05, 1.05, 3.9, 0.9, INK)
    label(ax, 9.6, 3, r"$\cdot$", fontsize=26)
    grid(ax, 10.2, 1, SMALL_W.reshape(4, 1), ORANGE)
    label(ax, 10.7, 0.45, "filter", fontsize=11)
    label(ax, 11.85, 3, "=", fontsize=14)
    grid(ax, 12.5, 1, (views @ SMALL_W.ravel())[:, None], GREEN)
    label(ax, 13.0, 0.45, "output", fontsize=11)
    label(ax, 7, 5.55, "windows \u00d7 taps", GREY, fontsize=10)
    label(ax, 10.7, 5.55, "taps \u00d7 filters", GREY, fontsize=10)
    label(ax, 13.6, 5.55, "windows \u00d7 filters", GREY, fontsize=10, ha="center")
    return fig


@figure
def edges() -> Figure:
    """What two filters see in four drawn shapes."""
    images = load_dataset("shapes", "test").images
    labels = load_dataset("shapes", "test").labels
    chosen = [int(np.flatnonzero(labels == kind)[3]) for kind in (3, 4, 1, 8)]
    grey = images[chosen].astype(np.float64).mean(axis=1, keepdims=True) / 255
    filters = np.stack([W, W.T])[:, None]
    responses, _ = conv2d_forward(grey, filters, None, 1, 1)
    responses = responses[:, :, 2:-2, 2:-2]
    fig = Figure(figsize=(6.6, 5.0))
    axes = fig.subplots(3, 4, gridspec_kw={"hspace": 0.08, "wspace": 0.08})
    limit = 0.8 * np.abs(responses).max()
    for column in range(4):
        axes[0, column].pcolormesh(grey[column, 0], cmap="gray", vmin=0, vmax=1, rasterized=True)
        for row in range(2):
            axes[row + 1, column].pcolormesh(
                responses[column, row], cmap="PuOr", vmin=-limit, vmax=limit, rasterized=True
            )
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[], aspect="equal")
        ax.invert_yaxis()
        ax.spines[:].set_visible(False)
    for ax, title in zip(
        axes[:, 0], ("image", "left minus\nright", "top minus\nbottom"), strict=True
    ):
        ax.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=10.5)
    return fig


TAPS = [TINT[ORANGE], TINT[GREEN], "#ecd9e4"]


@figure
def products() -> Figure:
    """All products of a convolution in one dimension: rows, columns and diagonals."""
    fig, ax = canvas(14.0, 6.1, 0.46)
    left, top = 1.3, 1.5
    for u in range(5):
        label(ax, left + 1.5 * u + 0.75, top - 0.5, f"$x_{u}$", BLUE, fontsize=13)
    for q in range(3):
        label(ax, left - 0.6, top + q + 0.5, f"$y_{q}$", GREEN, fontsize=13)
        for u in range(5):
            tap = u - q
            inside = 0 <= tap < 3
            ax.add_patch(_cell(left + 1.5 * u, top + q, TAPS[tap] if inside else "white"))
            if inside:
                label(ax, left + 1.5 * u + 0.75, top + q + 0.5, f"$w_{tap}\\, x_{u}$", fontsize=12)
    frame(ax, left + 0.05, top + 0.06, 4.4, 0.88, GREEN)
    frame(ax, left + 3.05, top - 0.05, 1.4, 3.1, BLUE)
    label(ax, left + 8.2, top + 0.5, "a row: forward,", ha="left", fontsize=10.5, color=GREEN)
    label(ax, left + 8.2, top + 1.0, "$y_0 = w_0 x_0 + w_1 x_1 + w_2 x_2$", ha="left", fontsize=11)
    label(
        ax, left + 3.75, top + 3.55, "a column: the gradient of $x_2$,", color=BLUE, fontsize=10.5
    )
    label(ax, left + 3.75, top + 4.15, "$g_0 w_2 + g_1 w_1 + g_2 w_0$", fontsize=11)
    label(
        ax,
        left + 8.2,
        top + 2.3,
        "a colour: the gradient of",
        ha="left",
        fontsize=10.5,
        color=INK,
    )
    label(
        ax,
        left + 8.2,
        top + 2.8,
        "one weight; for $w_0$ it is",
        ha="left",
        fontsize=10.5,
        color=INK,
    )
    label(ax, left + 8.2, top + 3.35, "$g_0 x_0 + g_1 x_1 + g_2 x_2$", ha="left", fontsize=11)
    return fig


def _cell(x: float, y: float, color: str):
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 1.5, 1.0, facecolor=color, edgecolor=GREY, linewidth=0.9)


@figure
def grad_weight() -> Figure:
    """For each weight: the pixels that it met, times the gradients that came back, summed."""
    _, cache = conv2d_forward(SMALL_X[None, None], SMALL_W[None, None])
    _, gradient, _ = conv2d_backward(G[None, None], cache)
    fig, ax = canvas(16.6, 9.7, 0.42)
    for index, (i, j) in enumerate(np.ndindex(2, 2)):
        left, top = 0.05 + 8.8 * (index % 2), 1.0 + 4.9 * (index // 2)
        fills = np.full((3, 3), "white", dtype=object)
        fills[i : i + 2, j : j + 2] = TINT[BLUE]
        grid(ax, left, top, SMALL_X, BLUE, fills=fills)
        frame(ax, left + j + 0.05, top + i + 0.05, 1.9, 1.9, BLUE)
        label(ax, left + 3.5, top + 1.5, r"$\odot$", fontsize=14)
        grid(ax, left + 4, top + 0.5, G, RED)
        label(ax, left + 6.45, top + 1.5, "=", fontsize=14)
        total = f"{gradient[0, 0, i, j]:g}".replace("-", "\u2212")
        label(ax, left + 7.3, top + 1.5, total, fontsize=15)
        label(ax, left + 1.5, top - 0.45, f"pixels that $w_{{{i}{j}}}$ met", fontsize=10)
        label(ax, left + 5, top - 0.05, "$g$", RED, fontsize=12)
        label(ax, left + 7.3, top + 0.55, f"$\\partial L/\\partial w_{{{i}{j}}}$", fontsize=11)
    return fig


@figure
def grad_x() -> Figure:
    """Each output stamps the filter, times its gradient, where its window was; stamps add up."""
    _, cache = conv2d_forward(SMALL_X[None, None], SMALL_W[None, None])
    gradient, _, _ = conv2d_backward(G[None, None], cache)
    fig, ax = canvas(19.4, 8.5, 0.375)
    grid(ax, 0.5, 1.2, G, RED, size=9)
    label(ax, 1.5, 0.6, "$g$, from the output", RED, fontsize=10)
    grid(ax, 0.5, 5.3, SMALL_W, ORANGE, size=9)
    label(ax, 1.5, 4.7, "filter $w$", fontsize=10)
    for index, (p, q) in enumerate(np.ndindex(2, 2)):
        left, top = 5.2 + 4.3 * (index % 2), 1.2 + 4.1 * (index // 2)
        stamp = np.full((3, 3), "", dtype=object)
        fills = np.full((3, 3), "white", dtype=object)
        stamp[p : p + 2, q : q + 2] = G[p, q] * SMALL_W
        fills[p : p + 2, q : q + 2] = TINT[ORANGE]
        grid(ax, left, top, stamp, GREY, fills=fills, size=9)
        frame(ax, left + q + 0.05, top + p + 0.05, 1.9, 1.9, ORANGE, 2.0)
        value = f"{G[p, q]:g}".replace("-", "\u2212")
        label(ax, left + 1.5, top - 0.5, f"$g_{{{p}{q}}} w$ = {value} $\\cdot\\, w$", fontsize=10)
        if index:
            label(ax, left - 0.65, top + 1.5, "+", fontsize=14)
    label(ax, 13.4, 4.55, "=", fontsize=16)
    grid(ax, 14.3, 3.0, gradient[0, 0], RED, cell=1.1, size=10)
    label(ax, 15.95, 2.4, r"$\partial L/\partial x$", RED, fontsize=12)
    return fig


@figure
def coverage() -> Figure:
    """How many windows see each pixel: why edges differ, and what stride 2 does."""
    fig, ax = canvas(19.4, 7.4, 0.375)
    titles = ("padding 0, stride 1", "padding 1, stride 1", "padding 1, stride 2")
    for index, (title, padding, stride) in enumerate(
        zip(titles, (0, 1, 1), (1, 1, 2), strict=True)
    ):
        _count_grid(ax, 6.6 * index + 0.1, 1.2, padding, stride)
        label(ax, 6.6 * index + 3.1, 0.6, title, fontsize=10.5)
    return fig


def _count_grid(ax: Axes, left: float, top: float, padding: int, stride: int) -> None:
    x, w = np.zeros((1, 1, 6, 6)), np.ones((1, 1, 3, 3))
    y, cache = conv2d_forward(x, w, None, stride, padding)
    counts = conv2d_backward(np.ones_like(y), cache)[0][0, 0]
    shades = np.empty(counts.shape, dtype=object)
    for place, count in np.ndenumerate(counts):
        shades[place] = str(1 - 0.055 * count)
    grid(ax, left, top, counts, GREY, fills=shades, size=9)
