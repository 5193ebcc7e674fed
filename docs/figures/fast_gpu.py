"""The figures of chapter 15: a GPU, one unit's launches, implicit GEMM, number formats, graphs."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
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
    label,
)

from minires.data import load_dataset
from minires.models import build
from minires.nn import CrossEntropyLoss, Sequential


def _box(ax: Axes, x: float, y: float, width: float, height: float, color: str, **kwargs) -> None:
    """A tinted box with its upper left corner at (x, y)."""
    ax.add_patch(
        FancyBboxPatch(
            (x + 0.08, y + 0.08),
            width - 0.16,
            height - 0.16,
            boxstyle="round,pad=0.08",
            edgecolor=color,
            linewidth=1.3,
            **{"facecolor": TINT.get(color, "white"), **kwargs},
        )
    )


@figure
def gpu() -> Figure:
    """Multiprocessors with their blocks, warps, registers and shared memory; the memory below."""
    fig, ax = canvas(20.0, 12.2, 0.38)
    for index in range(3):
        x = 0.2 + 6.7 * index
        _box(ax, x, 0.2, 6.2, 6.6, GREY, facecolor="white")
        label(ax, x + 3.1, 0.75, "multiprocessor", GREY, fontsize=10)
        _box(ax, x + 0.4, 1.2, 5.4, 3.5, ORANGE)
        label(ax, x + 3.1, 1.7, "a block", ORANGE, fontsize=10)
        for warp in range(4):
            top = 2.15 + 0.6 * warp
            for lane in range(16):
                left = x + 0.75 + 0.295 * lane
                ax.add_patch(
                    Rectangle((left, top), 0.23, 0.4, facecolor="white", edgecolor=ORANGE, lw=0.6)
                )
        _box(ax, x + 0.4, 4.85, 2.6, 1.6, BLUE)
        label(ax, x + 1.7, 5.65, "shared\nmemory", BLUE, fontsize=9.5)
        _box(ax, x + 3.2, 4.85, 2.6, 1.6, GREEN)
        label(ax, x + 4.5, 5.65, "tensor\ncores", GREEN, fontsize=9.5)
        arrow(ax, (x + 3.1, 8.0), (x + 3.1, 7.0), INK, style="<|-|>")
    _box(ax, 0.2, 8.1, 19.6, 1.2, BLUE)
    label(ax, 10, 8.7, "second-level cache, shared by all multiprocessors", BLUE, fontsize=10.5)
    arrow(ax, (10, 10.5), (10, 9.5), INK, style="<|-|>")
    _box(ax, 0.2, 10.6, 19.6, 1.4, BLUE)
    label(ax, 10, 11.3, "the GPU's own memory: weights, activations, images", BLUE, fontsize=10.5)
    return fig


def _kernel(ax: Axes, x: float, y: float, text: str, large: bool) -> None:
    _box(ax, x, y, 3.6, 1.3, ORANGE if large else GREY)
    label(ax, x + 1.8, y + 0.65, text, fontsize=8.5)


@figure
def unit_launches() -> Figure:
    """What a unit launches forward and backward, and which whole arrays each launch moves."""
    fig, ax = canvas(21.6, 11.4, 0.37)
    rows = [
        (
            "forward",
            0.9,
            [
                ("convolve", True, ["x"], ["y", "moments"]),
                ("finish_moments", False, [], []),
                ("normalize", True, ["y", "shortcut"], ["out"]),
            ],
        ),
        (
            "backward",
            6.4,
            [
                ("gradient_sums", True, ["g", "y"], []),
                ("finish_gradient", False, [], []),
                ("input_gradient", True, ["g", "y"], ["gy"]),
                ("convolve", True, ["gy"], ["gx"]),
                ("weight_gradient", True, ["x", "gy"], []),
            ],
        ),
    ]
    names = {
        "x": "$x$",
        "y": "$y$",
        "out": "output",
        "shortcut": "shortcut",
        "g": "$g$",
        "gy": r"$\partial y$",
        "gx": r"$\partial x$",
        "moments": "",
    }
    for title, top, kernels in rows:
        label(ax, 0.1, top - 0.35, title, INK, fontsize=11, ha="left")
        for index, (name, large, read, written) in enumerate(kernels):
            x = 0.1 + 4.35 * index
            _kernel(ax, x, top + 1.7, name, large)
            for items, y, into in ((read, top + 0.55, True), (written, top + 4.15, False)):
                items = [item for item in items if names[item]]
                for place, item in enumerate(items):
                    at = x + 1.8 + 1.7 * (place - (len(items) - 1) / 2)
                    color = RED if item in ("g", "gy", "gx") else BLUE
                    label(ax, at, y, names[item], color, fontsize=10.5)
                    ends = [(at, y + 0.35), (at, top + 1.65)]
                    if not into:
                        ends = [(at, top + 3.05), (at, y - 0.4)]
                    arrow(ax, *ends, color, width=1.2)
            if index:
                arrow(ax, (x - 0.68, top + 2.35), (x - 0.05, top + 2.35), GREY, width=1.0)
    return fig


@figure
def implicit_gemm() -> Figure:
    """A block's tile of the output, and the pieces of both factors that it walks along."""
    fig, ax = canvas(21.0, 10.4, 0.37)
    left, top = 1.0, 3.6
    ax.add_patch(Rectangle((left, top), 9, 6, facecolor="white", edgecolor=BLUE, linewidth=1.2))
    ax.add_patch(Rectangle((left, top + 2), 9, 2, facecolor=TINT[BLUE], edgecolor="none"))
    ax.add_patch(Rectangle((12.2, top), 4, 6, facecolor="white", edgecolor=GREEN, linewidth=1.2))
    ax.add_patch(Rectangle((12.2, 0.6 - 0.4), 4, 2.6, facecolor="white", edgecolor=ORANGE))
    ax.add_patch(Rectangle((13.5, 0.2), 1.3, 2.6, facecolor=TINT[ORANGE], edgecolor="none"))
    ax.add_patch(
        Rectangle((13.5, top + 2), 1.3, 2, facecolor=TINT[GREEN], edgecolor=GREEN, linewidth=2)
    )
    for index in range(6):
        x = left + 1.5 * index
        ax.plot([x, x], [top + 2, top + 4], color="white", linewidth=1.4)
        if index:
            ax.plot([x, x], [top, top + 6], color=PALE, linewidth=0.7, zorder=0)
    frame(ax, left + 1.5, top + 2, 1.5, 2, INK, 2.0)
    frame(ax, 13.5, 0.2 + 0.43, 1.3, 0.43, INK, 2.0)
    label(ax, left + 4.5, top - 0.4, "windows: never written out", BLUE, fontsize=10.5)
    label(ax, left + 4.5, top + 6.5, "$R\\,S\\,C$, in steps of 32", GREY, fontsize=10)
    label(ax, left - 0.55, top + 3, "$N P Q$", GREY, rotation=90, fontsize=10)
    label(ax, 11.9, 1.5, "weights,\ntransposed", ORANGE, fontsize=10.5, ha="right")
    label(ax, 14.2, top + 6.5, "$K$", GREY, fontsize=10)
    label(ax, 16.5, top + 3.0, "a block's tile\nof the output", GREEN, fontsize=10.5, ha="left")
    arrow(ax, (left + 3.2, top + 3), (left + 5.2, top + 3), INK)
    arrow(ax, (14.15, 1.15), (14.15, 2.35), INK)
    return fig


FORMATS = (
    ("float32", 8, 23),
    ("TF32", 8, 10),
    ("bfloat16", 8, 7),
    ("float16", 5, 10),
)


@figure
def number_formats() -> Figure:
    """The bits of four formats: sign, exponent, fraction."""
    fig, ax = canvas(20.4, 6.9, 0.4)
    cell = 0.48
    for row, (name, exponent, fraction) in enumerate(FORMATS):
        y = 1.0 + 1.45 * row
        label(ax, 0, y + 0.45, name, fontsize=11, ha="left")
        colors = [GREY] + [ORANGE] * exponent + [BLUE] * fraction
        for index, color in enumerate(colors):
            ax.add_patch(
                Rectangle(
                    (3.2 + cell * index, y), cell, 0.9, facecolor=TINT[color], edgecolor=color
                )
            )
        end = 3.2 + cell * len(colors)
        label(ax, end + 0.3, y + 0.45, f"{exponent} + {fraction}", GREY, fontsize=10, ha="left")
    label(ax, 3.2 + cell * 0.5, 0.5, "sign", GREY, fontsize=9.5, ha="right")
    label(ax, 3.2 + cell * 5, 0.5, "exponent: how large", ORANGE, fontsize=10)
    label(ax, 3.2 + cell * 18, 0.5, "fraction: how exact", BLUE, fontsize=10)
    return fig


def gradient_sizes(images: int = 128) -> np.ndarray:
    """log2 of all gradients of the blocks' inputs that are not 0: ResNet-20, before training."""
    data = load_dataset("shapes", "test")
    x = (data.images[:images].astype(np.float32) / 255 - 0.5) / 0.25
    model = build("resnet20", seed=0)
    loss = CrossEntropyLoss()
    loss.forward(model.forward(x), data.labels[:images])
    grad, sizes = loss.backward(), []
    for part in reversed(model.parts):
        blocks = list(part) if isinstance(part, Sequential) else [part]
        for block in reversed(blocks):
            grad = block.backward(grad)
            if isinstance(part, Sequential):
                sizes.append(np.abs(grad[grad != 0]).ravel())
    return np.log2(np.concatenate(sizes))


@figure
def loss_scale() -> Figure:
    """The gradients of a network by size, as they are and 65,536 times as large."""
    sizes = gradient_sizes()
    fig = Figure(figsize=(7.2, 3.3))
    ax = fig.subplots()
    bins = np.arange(-45, 17, 1.0)
    counts = np.histogram(sizes, bins)[0] / sizes.size
    shifted = np.histogram(sizes + 16, bins)[0] / sizes.size
    top = 1.28 * max(counts.max(), shifted.max())
    ax.axvspan(-45, -24, color=TINT[RED], linewidth=0)
    ax.axvspan(-24, -14, color=TINT[ORANGE], linewidth=0)
    ax.step(bins[:-1], counts, where="post", color=GREY, linewidth=1.8)
    ax.step(bins[:-1], shifted, where="post", color=BLUE, linewidth=1.8)
    ax.axvline(16, color=RED, linewidth=1.2, linestyle="--")
    for x, text in (
        (-34.5, "becomes 0"),
        (-19, "loses digits"),
        (1, "float16 has 11 binary digits"),
    ):
        label(ax, x, top * 0.93, text, fontsize=9.5)
    peak = bins[np.argmax(counts)]
    label(ax, peak + 1.5, counts.max() * 0.95, "gradients", GREY, fontsize=10, ha="left")
    label(ax, peak + 17.5, shifted.max() * 0.95, r"$\times\ 2^{16}$", BLUE, fontsize=11, ha="left")
    ax.set_xlim(-38, 17)
    ax.set_ylim(0, top)
    ax.set_xticks([-40, -32, -24, -14, -8, 0, 8, 16])
    ax.set_xticklabels([f"$2^{{{k}}}$" for k in (-40, -32, -24, -14, -8, 0, 8, 16)])
    ax.set_xlabel("size of a gradient")
    ax.set_ylabel("share")
    return fig


@figure
def graph() -> Figure:
    """Launches op by op leave the GPU waiting; a graph is one launch. A sketch, not measured."""
    fig, ax = canvas(20.0, 8.0, 0.38)
    lanes = {"CPU": (0.9, PURPLE), "GPU": (2.2, ORANGE)}
    for block, title in enumerate(("op by op", "as a graph")):
        y0 = 4.1 * block
        label(ax, 0, y0 + 0.45, title, fontsize=11, ha="left")
        for name, (y, color) in lanes.items():
            label(ax, 0.2, y0 + y + 0.45, name, color, fontsize=10, ha="left")
            ax.plot([1.8, 19.6], [y0 + y + 1.0] * 2, color=PALE, linewidth=1)
    for index in range(9):
        x = 1.9 + 1.9 * index
        ax.add_patch(Rectangle((x, 1.0), 1.5, 0.8, facecolor=TINT[GREY], edgecolor=PURPLE))
        ax.add_patch(Rectangle((x + 1.5, 2.3), 0.75, 0.8, facecolor=TINT[ORANGE], edgecolor=ORANGE))
    ax.add_patch(Rectangle((1.9, 5.1), 2.0, 0.8, facecolor=TINT[GREY], edgecolor=PURPLE))
    for index in range(9):
        ax.add_patch(
            Rectangle((3.9 + 0.8 * index, 6.4), 0.75, 0.8, facecolor=TINT[ORANGE], edgecolor=ORANGE)
        )
    arrow(ax, (3.4, 1.8), (3.4, 2.25), INK, width=1.0)
    arrow(ax, (3.9, 5.9), (3.95, 6.35), INK, width=1.0)
    label(ax, 14.6, 6.8, "the GPU is done", GREY, fontsize=10)
    return fig
