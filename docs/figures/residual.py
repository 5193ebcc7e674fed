"""The figures of chapter 9: a block in both directions, paths, gradients by depth, shortcut A."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
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
)

from minires.data import load_dataset
from minires.functional import shortcut_a_forward
from minires.models import build
from minires.nn import CrossEntropyLoss, Sequential

STEPS = ("conv", "bn", "ReLU", "conv", "bn")


def _box(ax: Axes, x: float, y: float, text: str, color: str = ORANGE) -> None:
    """A rounded box of 1.7 x 1, centred at (x, y)."""
    ax.add_patch(
        FancyBboxPatch(
            (x - 0.75, y - 0.4),
            1.5,
            0.8,
            boxstyle="round,pad=0.1",
            facecolor=TINT[color],
            edgecolor=color,
            linewidth=1.3,
        )
    )
    label(ax, x, y, text, fontsize=10)


def _join(ax: Axes, x: float, y: float, text: str, color: str) -> None:
    ax.add_patch(Circle((x, y), 0.42, facecolor="white", edgecolor=color, linewidth=1.5, zorder=6))
    label(ax, x, y, text, color, fontsize=13, zorder=7)


def _line(ax: Axes, points: list[tuple[float, float]], color: str, width: float = 1.6) -> None:
    """A bent line through `points` with an arrow head at its end."""
    xs, ys = zip(*points[:-1], strict=True)
    ax.plot(xs, ys, color=color, linewidth=width, solid_joinstyle="round", zorder=3)
    arrow(ax, points[-2], points[-1], color, width=width)


@figure
def block() -> Figure:
    """A residual block, forward and back: what forks on the way there is summed on the way back."""
    fig, ax = canvas(21.4, 8.8, 0.36)
    centres = [4.6 + 2.3 * k for k in range(5)]
    for row, color in ((2.6, INK), (7.4, RED)):
        back = color == RED
        for x, text in zip(centres, STEPS, strict=True):
            _box(ax, x, row, text, GREY if text == "ReLU" else ORANGE)
        _box(ax, 18.3, row, "ReLU", GREY)
        _join(ax, 16.0, row, "" if back else "+", color)
        _join(ax, 2.4, row, "+" if back else "", color)
        stops = [2.4, *centres, 16.0, 18.3]
        halves = [0.42, *[0.86] * 5, 0.42, 0.86]
        for k in range(7):
            left, right = stops[k] + halves[k], stops[k + 1] - halves[k + 1]
            ends = ((right, row), (left, row)) if back else ((left, row), (right, row))
            arrow(ax, *ends, color, width=1.6)
        ends = [(16.0, row - 0.42), (16.0, row - 1.7), (2.4, row - 1.7), (2.4, row - 0.42)]
        _line(ax, ends if back else ends[::-1], color)
        edges = [((0.9, row), (1.95, row)), ((19.2, row), (20.4, row))]
        for a, z in edges:
            arrow(ax, *((z, a) if back else (a, z)), color, width=1.6)
    label(ax, 0.5, 2.6, "$x$", BLUE, fontsize=14)
    label(ax, 20.8, 2.6, "$y$", GREEN, fontsize=14)
    label(ax, 9.2, 0.5, "shortcut: $x$", fontsize=11)
    label(ax, 9.2, 3.55, "body: $F(x)$", fontsize=11)
    label(ax, 0.25, 7.4, r"$\frac{\partial L}{\partial x}$", RED, fontsize=16)
    label(ax, 20.85, 7.4, "$g$", RED, fontsize=14)
    label(ax, 17.0, 6.85, "$h$", RED, fontsize=13)
    label(ax, 9.2, 5.3, "the shortcut's share: $h$", RED, fontsize=11)
    label(ax, 9.2, 8.4, "the body's share: $h$, back through $F$", RED, fontsize=11)
    return fig


@figure
def unrolled() -> Figure:
    """Three blocks in a row have eight ways back; three plain blocks have one."""
    fig, ax = canvas(17.6, 6.3, 0.42)
    places = [1.0, 4.6, 8.2, 11.8]
    for row, plain in ((2.2, False), (5.6, True)):
        for left, right, index in zip(places, places[1:], (1, 2, 3), strict=False):
            middle = (left + right) / 2
            lift = 0.0 if plain else 1.15
            if plain:
                ends = (right - 0.55, row), (left + 0.55, row)
                arrow(ax, ends[0], (middle + 0.85, row), RED, width=1.8)
                arrow(ax, (middle - 0.85, row), ends[1], RED, width=1.8)
            else:
                arrow(ax, (right - 0.55, row), (left + 0.55, row), RED, width=1.8)
                corner = row - lift
                out, into = right - 0.22, left + 0.22
                start, end = (middle + 0.85, corner), (middle - 0.85, corner)
                _line(ax, [(out, row - 0.45), (out, corner), start], RED)
                _line(ax, [end, (into, corner), (into, row - 0.45)], RED)
            _box(ax, middle, row - lift, f"$J_{index}$")
        for index, x in enumerate(places):
            ax.add_patch(
                Circle((x, row), 0.5, facecolor=TINT[BLUE], edgecolor=BLUE, lw=1.3, zorder=6)
            )
            label(ax, x, row, f"$x_{index}$", fontsize=12, zorder=7)
        arrow(ax, (13.4, row), (12.35, row), RED, width=1.8)
        label(ax, 13.75, row, "$g_3$", RED, fontsize=13)
    label(ax, 14.5, 1.6, "residual: 8 paths,", ha="left", fontsize=10.5)
    label(ax, 14.5, 2.2, "one with no body", ha="left", fontsize=10.5)
    label(ax, 14.5, 5.3, "plain: 1 path,", ha="left", fontsize=10.5)
    label(ax, 14.5, 5.9, "through all bodies", ha="left", fontsize=10.5)
    return fig


def block_gradients(depth: int, plain: bool) -> np.ndarray:
    """The norm of the loss's gradient by the input of each block, and by the last one's output."""
    data = load_dataset("shapes", "test")
    x = (data.images[:16].astype(np.float32) / 255 - 0.5) / 0.25
    model = build(f"resnet{depth}", seed=0, plain=plain)
    loss = CrossEntropyLoss()
    loss.forward(model.forward(x), data.labels[:16])
    grad, norms = loss.backward(), []
    for part in reversed(model.parts):
        if not isinstance(part, Sequential):
            grad = part.backward(grad)
            continue
        for one in reversed(list(part)):
            norms.append(float(np.linalg.norm(grad.astype(np.float64))))
            grad = one.backward(grad)
    return np.array(norms)


@figure
def gradient_norms() -> Figure:
    """Gradients against the number of blocks that they came back through, before training."""
    fig = Figure(figsize=(5.9, 3.7))
    ax = fig.add_subplot()
    for plain, color in ((True, RED), (False, BLUE)):
        for depth, line, width in ((110, ":", 1.6), (56, "--", 1.8), (20, "-", 2.4)):
            norms = block_gradients(depth, plain)
            kind = "plain" if plain else "residual"
            ax.semilogy(
                norms / norms[0],
                line,
                color=color,
                linewidth=width,
                label=f"{kind}, {depth} layers",
            )
    ax.set_xlabel("blocks that the gradient came back through")
    ax.set_ylabel("size of the gradient, 1 at the end")
    ax.legend(frameon=False, fontsize=9, loc="upper left")
    return fig


@figure
def shortcut_a() -> Figure:
    """Shortcut A with stride 2, from two channels to four: picked pixels between zero channels."""
    x = np.arange(1.0, 33.0).reshape(1, 2, 4, 4)
    y, _ = shortcut_a_forward(x, 4, 2)
    fig, ax = canvas(17.2, 6.6, 0.42)
    fills = np.full((4, 4), "white", dtype=object)
    fills[::2, ::2] = TINT[BLUE]
    for channel in range(2):
        left = 0.2 + 4.8 * channel
        grid(ax, left, 1.5, x[0, channel], BLUE, fills=fills)
        label(ax, left + 2, 0.9, f"channel {channel + 1} of $x$", fontsize=10.5)
    arrow(ax, (9.4, 3.5), (10.8, 3.5))
    for channel in range(4):
        left, top = 11.6 + 3.0 * (channel % 2), 1.2 + 2.9 * (channel // 2)
        tint = GREEN if y[0, channel].any() else GREY
        shades = np.full((2, 2), TINT[GREEN] if tint == GREEN else "white", dtype=object)
        grid(ax, left, top, y[0, channel], tint, fills=shades)
        label(ax, left + 1, top - 0.4, f"channel {channel + 1}", fontsize=10)
    return fig
