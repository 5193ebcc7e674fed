"""The figures of chapter 7: what is normalised with what, and how the gradient comes back."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    RED,
    TINT,
    arrow,
    canvas,
    figure,
    frame,
    grid,
    label,
    number,
)

from minires.functional import (
    batch_norm_backward,
    batch_norm_forward,
    conv2d_forward,
    relu_forward,
)
from minires.functional.batch_norm import batch_statistics

EIGHT = np.array([2, 4, 4, 4, 5, 5, 7, 9.0])
G = np.array([-1, -2, 1, 0, 2, 1, 0, 3.0])


def normalise_eight(gamma: float, beta: float) -> tuple:
    """The eight numbers as two images of 2 x 2 with one channel, without epsilon."""
    x = EIGHT.reshape(2, 1, 2, 2)
    buffers = np.zeros(1), np.ones(1)
    return batch_norm_forward(x, np.array([gamma]), np.array([beta]), *buffers, eps=0.0)


def spreads(factor: float, norm: bool, layers: int = 20) -> list[float]:
    """The standard deviation of what enters each ReLU of a chain of convolutions."""
    random = np.random.default_rng(0)
    x = random.normal(size=(8, 16, 16, 16))
    found = []
    for _ in range(layers):
        weight = random.normal(size=(16, 16, 3, 3)) * (2 / (16 * 9)) ** 0.5
        x, _ = conv2d_forward(x, factor * weight, None, 1, 1)
        if norm:
            x, _ = batch_norm_forward(x, np.ones(16), np.zeros(16), np.zeros(16), np.ones(16))
        found.append(float(x.std()))
        x, _ = relu_forward(x)
    return found


@figure
def spread() -> Figure:
    """The spread of the numbers in a chain of layers, without batch norm and with it."""
    fig = Figure(figsize=(5.9, 3.5))
    ax = fig.add_subplot()
    layers = np.arange(1, 21)
    for factor, color, text in (
        (1.25, RED, "weights 25% larger"),
        (1.0, BLUE, "weights of the right size"),
        (0.8, ORANGE, "weights 20% smaller"),
    ):
        values = spreads(factor, False)
        ax.semilogy(layers, values, color=color)
        ax.text(20.4, values[-1] * 0.85, text, color=color, va="center", fontsize=9.5)
    for factor in (0.8, 1.0, 1.25):
        ax.semilogy(layers, spreads(factor, True), "--", color=GREEN)
    ax.text(20.4, 2.5, "all three, with\nbatch norm", color=GREEN, va="center", fontsize=9.5)
    ax.set_xlabel("layer")
    ax.set_ylabel("standard deviation before the ReLU")
    ax.set_xticks([1, 5, 10, 15, 20])
    return fig


@figure
def channel_sets() -> Figure:
    """A batch as a table of images and channels: one column shares a mean and a variance."""
    fig, ax = canvas(14.4, 9.4, 0.42)
    blank = np.full((3, 3), "", dtype=object)
    for column in range(3):
        left = 2.6 + 4.0 * column
        label(ax, left + 1.5, 0.5, f"channel {column + 1}", fontsize=11)
        for row in range(2):
            grid(ax, left, 1.2 + 3.6 * row, blank, (BLUE, ORANGE, GREEN)[column])
        frame(ax, left - 0.25, 0.95, 3.5, 7.1, (BLUE, ORANGE, GREEN)[column], 2.0)
        label(ax, left + 1.5, 8.7, f"$\\mu_{column + 1}$, $\\sigma^2_{column + 1}$", fontsize=13)
    for row in range(2):
        label(ax, 1.0, 2.7 + 3.6 * row, f"image {row + 1}", fontsize=11)
    return fig


@figure
def normalise() -> Figure:
    """Eight numbers of one channel: minus their mean, over their spread, times gamma plus beta."""
    y, cache = normalise_eight(2.0, 1.0)
    x_hat = (cache.x - cache.mean) * cache.inv_std
    panels = [
        ("$x$", cache.x, BLUE),
        (r"$x - \mu$", cache.x - cache.mean, GREY),
        (r"$\hat x$", x_hat, GREY),
        ("$y$", y, GREEN),
    ]
    fig, ax = canvas(17.4, 8.1, 0.41)
    signs = (r"$-\mu$", r"$\div\sqrt{\sigma^2}$", r"$\cdot\,\gamma + \beta$")
    for column, (name, values, color) in enumerate(panels):
        left = 1.9 + 4.2 * column
        label(ax, left + 1, 0.5, name, fontsize=13)
        for image in range(2):
            grid(ax, left, 1.1 + 2.5 * image, values[image, 0], color)
        label(ax, left + 1, 6.4, f"mean {number(values.mean())}", fontsize=10.5)
        label(ax, left + 1, 7.1, f"variance {number(values.var())}", fontsize=10.5)
        if column:
            arrow(ax, (left - 1.9, 3.4), (left - 0.3, 3.4))
            label(ax, left - 1.1, 2.85, signs[column - 1], fontsize=11)
            text = ("$\\mu = 5$", r"$\sigma^2 = 4$", "$\\gamma = 2$\n$\\beta = 1$")[column - 1]
            label(ax, left - 1.1, 4.25, text, GREY, fontsize=10)
    for image in range(2):
        label(ax, 0.7, 2.1 + 2.5 * image, f"image {image + 1}", fontsize=10.5)
    return fig


@figure
def one_pass() -> Figure:
    """The error of the variance in float32, in one pass and in two, against the mean."""
    noise = np.random.default_rng(0).normal(size=(16, 1, 32, 32))
    means = 10.0 ** np.arange(-1, 5.01, 0.25)
    one, two = [], []
    for mean in means:
        x = (noise + mean).astype(np.float32)
        exact = x.astype(np.float64).var()
        short = float((x * x).mean() - x.mean() ** 2)
        one.append(abs(short / exact - 1))
        two.append(abs(float(batch_statistics(x)[1][0]) / exact - 1))
    fig = Figure(figsize=(5.9, 3.4))
    ax = fig.add_subplot()
    ax.loglog(means, one, "o-", color=RED, markersize=4)
    ax.loglog(means, np.maximum(two, 1e-9), "s-", color=GREEN, markersize=4)
    ax.axhline(1, color=GREY, linewidth=0.9)
    ax.text(0.1, 1.5, "as wrong as zero would be", color=GREY, fontsize=9)
    ax.text(
        40, 8e-6, r"mean of $x^2$, minus $\mu^2$", color=RED, fontsize=10.5, ha="left", va="center"
    )
    ax.text(60, 4e-7, "two passes", color=GREEN, fontsize=10.5, ha="left", va="center")
    ax.set_xlabel("mean of the values, whose standard deviation is 1")
    ax.set_ylabel("relative error of the variance")
    return fig


NODES = {
    "x": (1.2, 5.4, "$x_i$", BLUE),
    "a": (6.0, 5.4, "$a_i$", GREY),
    "n": (12.6, 5.4, r"$\hat x_i$", GREY),
    "y": (16.4, 5.4, "$y_i$", GREEN),
    "m": (3.6, 2.2, r"$\mu$", GREY),
    "v": (7.9, 2.2, r"$\sigma^2$", GREY),
    "r": (11.2, 2.2, "$r$", GREY),
}
BACK = {
    "yn": (r"$\gamma$", (0.0, -0.5)),
    "na": ("$r$", (0.0, -0.45)),
    "nr": ("$a_i$", (0.62, 0.0)),
    "rv": (r"$-\dfrac{1}{2} r^3$", (0.0, -0.85)),
    "va": (r"$\dfrac{2}{M} a_i$", (0.95, 0.25)),
    "ax": ("$1$", (0.0, -0.5)),
    "am": ("$-1$", (0.72, -0.2)),
    "mx": (r"$\dfrac{1}{M}$", (-0.65, -0.2)),
}


@figure
def norm_paths() -> Figure:
    """The steps of batch norm as a graph, with the factor of each on the way back."""
    fig, ax = canvas(18.6, 7.2, 0.41)
    for ends, (text, shift) in BACK.items():
        start, end = (np.array(NODES[node][:2]) for node in ends)
        along = (end - start) / np.hypot(*(end - start))
        arrow(ax, tuple(start + 0.75 * along), tuple(end - 0.75 * along), RED, width=1.9)
        label(ax, *((start + end) / 2 + shift), text, RED, fontsize=12)
    for x, y, text, color in NODES.values():
        fill = TINT.get(color, "white")
        ax.add_patch(Circle((x, y), 0.68, facecolor=fill, edgecolor=color, linewidth=1.5))
        label(ax, x, y, text, fontsize=13)
    arrow(ax, (18.4, 5.4), (17.15, 5.4), RED, width=1.9)
    label(ax, 17.8, 4.85, "$g_i$", RED, fontsize=12)
    for x, text in (
        (6.0, r"$x_i - \mu$"),
        (12.6, "$a_i r$"),
        (16.4, r"$\gamma \hat x_i + \beta$"),
    ):
        label(ax, x, 6.55, text, fontsize=11)
    for x, text in (
        (3.6, r"$\dfrac{1}{M} \sum x_i$"),
        (7.9, r"$\dfrac{1}{M} \sum a_i^2$"),
        (11.2, r"$1 / \sqrt{\sigma^2 + \epsilon}$"),
    ):
        label(ax, x, 0.65, text, fontsize=11)
    return fig


@figure
def residuals() -> Figure:
    """The gradient of x is what a straight line leaves of g: the example, and two special cases."""
    _, cache = normalise_eight(2.0, 1.0)
    x_hat = ((cache.x - cache.mean) * cache.inv_std).ravel()
    fig = Figure(figsize=(7.8, 3.2))
    axes = fig.subplots(1, 3, sharey=True, gridspec_kw={"wspace": 0.12})
    cases = [
        (G, "the gradients of the example"),
        (np.ones(8), "$g = 1$ everywhere"),
        (0.5 + x_hat, "$g$ on a straight line"),
    ]
    for ax, (g, title) in zip(axes, cases, strict=True):
        grad_x, grad_weight, grad_bias = batch_norm_backward(g.reshape(2, 1, 2, 2), cache)
        line = grad_bias[0] / 8 + grad_weight[0] / 8 * x_hat
        ends = np.array([-1.8, 2.3])
        ax.axhline(0, color=PALE, linewidth=0.9, zorder=0)
        ax.plot(ends, grad_bias[0] / 8 + grad_weight[0] / 8 * ends, color=INK, linewidth=1.3)
        for place, low, share in zip(x_hat, line, grad_x.ravel(), strict=True):
            if abs(share) > 1e-9:
                ax.plot([place, place], [low, low + share], color=RED, linewidth=2.4)
        ax.plot(x_hat, g, "o", color=BLUE, markersize=5.5, zorder=4)
        ax.set_title(title)
        ax.set_xlabel(r"$\hat x_i$", fontsize=12)
        ax.set_xticks([-1, 0, 1, 2])
    axes[0].set_ylabel("$g_i$", rotation=0, labelpad=10, fontsize=12)
    axes[0].text(
        1.1, 0.75, r"$\dfrac{\partial L}{\partial x_i}$", color=RED, fontsize=11, va="center"
    )
    return fig
