"""The figures of chapter 8: ReLU, max pooling, dropout, and filters that were learned with them."""

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
    SKY,
    TINT,
    arrow,
    canvas,
    figure,
    frame,
    grid,
    label,
)

from minires.functional import (
    conv2d_backward,
    conv2d_forward,
    cross_entropy_backward,
    cross_entropy_forward,
    dropout_forward,
    linear_backward,
    linear_forward,
    max_pool2d_backward,
    max_pool2d_forward,
    relu_backward,
    relu_forward,
)

LETTERS = {
    "T": ["#####", "..#..", "..#..", "..#..", "..#.."],
    "L": ["#....", "#....", "#....", "#....", "#####"],
    "X": ["#...#", ".#.#.", "..#..", ".#.#.", "#...#"],
    "O": [".###.", "#...#", "#...#", "#...#", ".###."],
}
POOLED = np.array([[1, 3, 0, 0], [2, 1, 0, 0], [5, 2, 4, 1], [5, 0, 2, 6.0]])
POOL_G = np.array([[2, -1], [4, 1.0]])


@figure
def relu() -> Figure:
    """A ReLU with its two slopes; and three of them that add up to a curve with three corners."""
    fig = Figure(figsize=(7.4, 3.0))
    left, right = fig.subplots(1, 2, gridspec_kw={"wspace": 0.25})
    x = np.linspace(-2, 2, 201)
    left.plot(x, relu_forward(x)[0], color=BLUE, linewidth=2.4)
    left.plot(0, 0, "o", color=INK, markersize=6)
    left.text(-1.1, 0.12, "slope 0", ha="center", fontsize=10)
    left.text(0.95, 1.25, "slope 1", ha="right", fontsize=10)
    left.text(
        0.0, -0.4, "the kink: no slope;\nminires takes 0", fontsize=9.5, va="top", ha="center"
    )
    left.set_ylim(-0.95, 2.1)
    left.set_title(r"$y = \max(x, 0)$")
    x = np.linspace(-2, 3, 251)
    total = np.zeros_like(x)
    for place, weight, color in ((-1.0, 1.0, SKY), (0.0, -2.0, ORANGE), (1.5, 1.8, PURPLE)):
        bend = weight * relu_forward(x - place)[0]
        right.plot(x, bend, "--", color=color, linewidth=1.3)
        right.axvline(place, color=GREY, linewidth=0.5, linestyle=":")
        total += bend
    right.plot(x, total, color=BLUE, linewidth=2.4)
    right.set_ylim(-1.6, 2.6)
    right.set_title("a sum of three: a corner at each")
    for ax in (left, right):
        ax.set_xlabel("$x$")
        ax.spines["bottom"].set_position(("data", 0))
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.xaxis.set_label_coords(1.03, 0.32)
    left.set_xticks([-2, -1, 1, 2])
    right.set_xticks([-2, -1, 1, 2, 3])
    return fig


@figure
def max_pool() -> Figure:
    """Four windows and their winners; then each gradient at the place of its winner."""
    y, cache = max_pool2d_forward(POOLED[None, None], 2, 2)
    gradient = max_pool2d_backward(POOL_G[None, None], cache)[0, 0]
    fig, ax = canvas(17.6, 5.6, 0.42)
    fills = np.full((4, 4), TINT[BLUE], dtype=object)
    back = np.full((4, 4), "white", dtype=object)
    for (p, q), winner in np.ndenumerate(cache.winner[0, 0]):
        i, j = divmod(int(winner), 2)
        fills[2 * p + i, 2 * q + j] = TINT[GREEN]
        back[2 * p + i, 2 * q + j] = TINT[RED]
    grid(ax, 0.1, 1.2, POOLED, BLUE, fills=fills)
    grid(ax, 6.2, 2.2, y[0, 0], GREEN)
    grid(ax, 9.5, 2.2, POOL_G, RED)
    grid(ax, 13.4, 1.2, gradient, RED, fills=back)
    for left in (0.1, 13.4):
        for place in np.ndindex(2, 2):
            frame(ax, left + 2 * place[1], 1.2 + 2 * place[0], 2, 2, INK, 1.8)
    arrow(ax, (4.4, 3.2), (5.9, 3.2))
    arrow(ax, (11.7, 3.2), (13.1, 3.2), RED)
    label(ax, 5.15, 2.75, "largest", fontsize=9)
    label(ax, 12.4, 2.75, "to the\nwinner", RED, fontsize=9, va="bottom")
    for x, text in ((2.1, "$x$"), (7.2, "$y$"), (10.5, "$g$"), (15.4, r"$\partial L/\partial x$")):
        label(ax, x, 0.6, text, RED if x > 9 else INK, fontsize=13)
    return fig


@figure
def dropout_masks() -> Figure:
    """Which values are dropped: another step or layer, other values; the same again, the same."""
    fig = Figure(figsize=(7.6, 2.5))
    axes = fig.subplots(1, 4, gridspec_kw={"wspace": 0.14})
    cases = [
        ("layer 1, step 0", 1, 0),
        ("layer 1, step 1", 1, 1),
        ("layer 2, step 0", 2, 0),
        ("layer 1, step 0 again", 1, 0),
    ]
    for ax, (title, layer, step) in zip(axes, cases, strict=True):
        kept = dropout_forward(np.ones((10, 10)), 0.3, 0, layer, step)[0] > 0
        for (row, column), keep in np.ndenumerate(kept):
            color = BLUE if keep else "white"
            ax.add_patch(_square(column, row, color))
        ax.set(xlim=(-0.1, 10.1), ylim=(10.1, -0.1), xticks=[], yticks=[], aspect="equal")
        ax.spines[:].set_visible(False)
        ax.set_title(title, fontsize=9.5)
        ax.set_xlabel(f"{100 - kept.sum()} dropped", fontsize=9)
    return fig


def _square(x: float, y: float, color: str):
    from matplotlib.patches import Rectangle

    return Rectangle((x + 0.06, y + 0.06), 0.88, 0.88, facecolor=color, edgecolor=GREY, lw=0.5)


def moved_letters(count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Noisy letters (count, 1, 9, 9), moved by up to one pixel, and their classes (count,)."""
    labels = random.integers(0, 4, count)
    images = 0.5 * random.standard_normal((count, 1, 9, 9))
    for image, kind in zip(images, labels, strict=True):
        down, right = random.integers(-1, 2, 2)
        ink = np.array([[mark == "#" for mark in row] for row in LETTERS["TLXO"[kind]]])
        image[0, 2 + down : 7 + down, 2 + right : 7 + right] += ink
    return images, labels


def learn(steps: int = 201) -> tuple[np.ndarray, np.ndarray]:
    """The filters (8, 1, 5, 5) and the last weights (4, 8), trained as in the chapter."""
    random = np.random.default_rng(0)
    x, labels = moved_letters(1000, random)
    moved_letters(1000, random)
    filters, bias = 0.3 * random.standard_normal((8, 1, 5, 5)), np.zeros(8)
    weight = 0.3 * random.standard_normal((4, 8))
    for _ in range(steps):
        y, conv = conv2d_forward(x, filters, bias)
        y, relu_cache = relu_forward(y)
        y, pool = max_pool2d_forward(y, 5, 5)
        logits, linear = linear_forward(y[:, :, 0, 0], weight)
        _, loss = cross_entropy_forward(logits, labels)
        grad, grad_weight, _ = linear_backward(cross_entropy_backward(loss), linear)
        grad = relu_backward(max_pool2d_backward(grad[:, :, None, None], pool), relu_cache)
        _, grad_filters, grad_bias = conv2d_backward(grad, conv, need_grad_x=False)
        for array, gradient in (
            (filters, grad_filters),
            (bias, grad_bias),
            (weight, grad_weight),
        ):
            array -= 0.3 * gradient
    return filters, weight


@figure
def learned_filters() -> Figure:
    """The eight filters after training, and the class that each speaks for most."""
    filters, weight = learn()
    order = np.argsort(weight.argmax(axis=0), kind="stable")
    fig = Figure(figsize=(7.6, 1.5))
    axes = fig.subplots(1, 8, gridspec_kw={"wspace": 0.12})
    limit = np.abs(filters).max()
    for ax, k in zip(axes, order, strict=True):
        _heat(ax, filters[k, 0], limit)
        ax.set_xlabel(f"for {'TLXO'[weight[:, k].argmax()]}", fontsize=10)
    return fig


def _heat(ax: Axes, values: np.ndarray, limit: float) -> None:
    ax.pcolormesh(values, cmap="PuOr", vmin=-limit, vmax=limit, edgecolors="white", linewidth=0.5)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.invert_yaxis()
    ax.spines[:].set_visible(False)
