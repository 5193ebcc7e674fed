"""The figures of chapters 1 and 2: scores, lines, letters, and the chain rule."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    TINT,
    arrow,
    canvas,
    figure,
    grid,
    label,
    number,
)

T_IMAGE = np.array([[1, 1, 1], [0, 1, 0], [0, 1, 0]])
TEMPLATES = {
    "T": np.array([[1, 1, 1], [-1, 1, -1], [-1, 1, -1]]),
    "L": np.array([[1, -1, -1], [1, -1, -1], [1, 1, 1]]),
}
LETTERS = {
    "T": ["#####", "..#..", "..#..", "..#..", "..#.."],
    "L": ["#....", "#....", "#....", "#....", "#####"],
    "X": ["#...#", ".#.#.", "..#..", ".#.#.", "#...#"],
    "O": [".###.", "#...#", "#...#", "#...#", ".###."],
}


@figure
def score() -> Figure:
    """One image and two templates: products, and their sums."""
    fig, ax = canvas(14.6, 8.6, 0.48)
    for x, text in ((1.5, "image $x$"), (6.1, "weights $w$"), (10.5, "products"), (13.6, "score")):
        label(ax, x, 0.45, text, fontsize=11)
    for row, (letter, weights) in enumerate(TEMPLATES.items()):
        top = 1.0 + 4.0 * row
        products = T_IMAGE * weights
        grid(ax, 0.05, top, T_IMAGE, BLUE)
        label(ax, 3.8, top + 1.5, r"$\odot$", fontsize=14)
        grid(ax, 4.6, top, weights, ORANGE)
        label(ax, 8.3, top + 1.5, "=", fontsize=14)
        fills = np.where(products > 0, TINT[GREEN], np.where(products < 0, TINT[RED], "white"))
        grid(ax, 9.0, top, products, GREEN, fills=fills)
        arrow(ax, (12.15, top + 1.5), (13.0, top + 1.5))
        label(ax, 12.55, top + 1.1, "sum", fontsize=9)
        label(ax, 13.6, top + 1.5, f"{products.sum():d}".replace("-", "\u2212"), fontsize=18)
        label(ax, 6.1, top + 3.35, f"the template of {letter}", fontsize=9, color=GREY)
    return fig


@figure
def score_line() -> Figure:
    """A score of two numbers: its sign changes at a line, and it grows along w."""
    w, b = np.array([1.0, 0.5]), -2.0
    fig = Figure(figsize=(5.6, 4.3))
    ax = fig.add_subplot()
    u, v = np.meshgrid(np.linspace(-0.5, 4.5, 200), np.linspace(-0.5, 4.0, 200))
    s = w[0] * u + w[1] * v + b
    ax.contourf(u, v, s, levels=[-9, 0, 9], colors=[TINT[RED], TINT[GREEN]])
    lines = ax.contour(u, v, s, levels=[-1, 0, 1, 2], colors=INK, linewidths=[0.7, 2, 0.7, 0.7])
    ax.clabel(
        lines,
        fmt=lambda value: f"score {number(value)}",
        fontsize=8.5,
        manual=[(0.4, 1.2), (1.4, 1.2), (2.4, 1.2), (3.4, 1.2)],
    )
    start = np.array([0.7, 2.6])
    ax.annotate("", start + w, start, arrowprops={"arrowstyle": "-|>", "color": ORANGE, "lw": 2.6})
    ax.text(*(start + [0.3, 0.45]), "$w$", fontsize=14)
    for point, color in (((3.4, 3.0), GREEN), ((0.2, 0.1), RED), ((3.3, 0.2), GREEN)):
        value = float(w @ point + b)
        ax.plot(*point, "o", color=BLUE, markersize=7)
        text = f"{value:+.2g}".replace("-", "\u2212")
        behind = {"facecolor": TINT[color], "edgecolor": "none", "pad": 1.0}
        ax.text(point[0] + 0.15, point[1], text, va="center", bbox=behind)
    ax.set_xlabel("first number of $x$")
    ax.set_ylabel("second number of $x$")
    ax.set_aspect("equal")
    return fig


def letter_image(letter: str, down: int = 0, right: int = 0) -> np.ndarray:
    """A letter of 5 x 5 pixels in an image of 9 x 9."""
    image = np.zeros((9, 9))
    ink = np.array([[mark == "#" for mark in row] for row in LETTERS[letter]])
    image[2 + down : 7 + down, 2 + right : 7 + right] = ink
    return image


@figure
def letters() -> Figure:
    """The four templates, noisy images of them, and noisy images a pixel or two away."""
    random = np.random.default_rng(3)
    fig = Figure(figsize=(5.6, 4.3))
    axes = fig.subplots(3, 4, gridspec_kw={"hspace": 0.12, "wspace": 0.12})
    moves = [(-1, 1), (2, -2), (1, 2), (-2, -1)]
    titles = ("templates", "noise", "noise and\na shift")
    for row, title in enumerate(titles):
        for ax, letter, move in zip(axes[row], LETTERS, moves, strict=True):
            image = letter_image(letter, *(move if row == 2 else (0, 0)))
            if row:
                image = image + 0.5 * random.standard_normal(image.shape)
            ax.pcolormesh(
                image, cmap="Greys", vmin=-0.8 if row else 0, vmax=1.8 if row else 1.1, linewidth=0
            )
            ax.set(xticks=[], yticks=[], aspect="equal")
            ax.invert_yaxis()
            ax.spines[:].set_visible(True)
            ax.spines[:].set_color(GREY)
        axes[row][0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=10.5)
    return fig


def _node(ax: Axes, x: float, y: float, text: str, color: str) -> None:
    ax.add_patch(
        Circle((x, y), 0.62, facecolor=TINT[color], edgecolor=color, linewidth=1.5, zorder=6)
    )
    ax.text(x, y, text, ha="center", va="center", fontsize=13, zorder=7)


@figure
def chain() -> Figure:
    """One weight, one loss: values flow right, gradients flow back left."""
    fig, ax = canvas(15.0, 6.6, 0.46)
    places = {
        "x": (1, 0.8),
        "w": (1, 4.6),
        "b": (4.6, 5.8),
        "m": (4.6, 2.7),
        "y": (8.6, 2.7),
        "L": (13.2, 2.7),
    }
    colors = {"x": BLUE, "w": ORANGE, "b": ORANGE, "m": GREY, "y": GREEN, "L": RED}
    for name, (px, py) in places.items():
        _node(ax, px, py, f"${name}$", colors[name])
    edges = [
        ("x", "m", "3", "2"),
        ("w", "m", "2", "3"),
        ("m", "y", "6", "1"),
        ("b", "y", "1", "1"),
        ("y", "L", "7", "1"),
    ]
    for start, end, value, gradient in edges:
        a, z = np.array(places[start]), np.array(places[end])
        along = (z - a) / np.hypot(*(z - a))
        across = np.array([along[1], -along[0]])
        first, last = a + 0.75 * along, z - 0.75 * along
        arrow(ax, first + 0.13 * across, last + 0.13 * across, INK)
        arrow(ax, last - 0.17 * across, first - 0.17 * across, RED)
        middle = (first + last) / 2
        label(ax, *(middle + 0.55 * across), value, fontsize=11)
        label(ax, *(middle - 0.62 * across), gradient, RED, fontsize=11)
    label(ax, 4.6, 1.6, "$m = w x$", fontsize=10.5)
    label(ax, 8.6, 1.6, "$y = m + b$", fontsize=10.5)
    label(ax, 13.2, 1.6, r"$L = (y - 6.5)^2$", fontsize=10.5)
    label(ax, 13.2, 3.75, "0.25", fontsize=11)
    return fig


@figure
def paths() -> Figure:
    """A value that is used twice gets two gradients, which are added."""
    fig, ax = canvas(13.0, 5.2, 0.46)
    places = {"x": (2.6, 2.6), "u": (6.6, 1.1), "v": (6.6, 4.1), "L": (10.6, 2.6)}
    for name, color in (("x", BLUE), ("u", GREY), ("v", GREY), ("L", RED)):
        _node(ax, *places[name], f"${name}$", color)
    texts = {"xu": "$1 \\cdot 2 = 2$", "xv": "$1 \\cdot 5 = 5$", "uL": "1", "vL": "1"}
    for ends, text in texts.items():
        a, z = np.array(places[ends[0]]), np.array(places[ends[1]])
        along = (z - a) / np.hypot(*(z - a))
        first, last = a + 0.75 * along, z - 0.75 * along
        arrow(ax, last, first, RED, width=1.8)
        side = -0.5 if "u" in ends else 0.55
        label(
            ax,
            (first + last)[0] / 2,
            (first + last)[1] / 2 + side,
            text,
            RED,
            fontsize=11,
            ha="right" if ends[0] == "x" else "left",
        )
    label(ax, 6.6, 0.15, "$u = 2 x$", fontsize=11)
    label(ax, 6.6, 5.05, "$v = 5 x$", fontsize=11)
    label(ax, 11.4, 2.6, "$= u + v$", fontsize=12, ha="left")
    label(ax, 0.95, 2.6, "$2 + 5 = 7$", RED, fontsize=12)
    return fig


def _block(
    ax: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    name: str,
    color: str,
    rows: str,
    columns: str,
) -> None:
    """A matrix as a block with its name inside, its rows at the left and its columns above."""
    ax.add_patch(
        Rectangle((x, y), width, height, facecolor=TINT[color], edgecolor=color, linewidth=1.5)
    )
    label(ax, x + width / 2, y + height / 2, name, fontsize=12)
    label(ax, x - 0.3, y + height / 2, rows, GREY, fontsize=10)
    label(ax, x + width / 2, y - 0.32, columns, GREY, fontsize=10)


@figure
def linear_gradients() -> Figure:
    """The three matrix products of a linear layer, as blocks whose sides must fit."""
    n, c, k = 2.0, 3.2, 1.4
    fig, ax = canvas(14.2, 10.6, 0.46)
    rows = [
        (
            0.9,
            "forward",
            ("$y$", GREEN, n, k, "N", "K"),
            ("$x$", BLUE, n, c, "N", "C"),
            ("$W^T$", ORANGE, c, k, "C", "K"),
        ),
        (
            4.9,
            "to the\ninput",
            (r"$\partial L/\partial x$", RED, n, c, "N", "C"),
            ("$g$", RED, n, k, "N", "K"),
            ("$W$", ORANGE, k, c, "K", "C"),
        ),
        (
            8.0,
            "to the\nweights",
            (r"$\partial L/\partial W$", RED, k, c, "K", "C"),
            ("$g^T$", RED, k, n, "K", "N"),
            ("$x$", BLUE, n, c, "N", "C"),
        ),
    ]
    for top, title, *matrices in rows:
        tall = max(matrix[2] for matrix in matrices)
        label(ax, 0, top + tall / 2, title, fontsize=11, ha="left")
        left = 3.0
        for sign, (name, color, height, width, row, column) in zip("=x ", matrices, strict=True):
            _block(ax, left, top + (tall - height) / 2, width, height, name, color, row, column)
            left += width + 0.55
            shown = {"=": "=", "x": r"$\cdot$", " ": ""}[sign]
            label(ax, left - 0.1, top + tall / 2, shown, fontsize=24 if sign == "x" else 14)
            left += 0.75
    return fig
