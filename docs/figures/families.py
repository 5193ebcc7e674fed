"""The figures of chapter 10: signals by the size of the weights, blocks, stems, families."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
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
    label,
)

from minires.functional import conv2d_backward, conv2d_forward, relu_backward, relu_forward
from minires.models import build, summarize

STAGES = ((8, 1), (16, 2), (32, 2))
"""Channels of each stage, and the stride of its first layer."""
LAYERS = 10
"""Layers of a stage."""


def sizes(gain: float, fan: str) -> tuple[list[float], list[float]]:
    """The root mean square by layer, forward and of the gradient, in 30 convolutions with ReLU.

    The weights have the variance gain / fan; fan is "in", "out" or "mean".
    """
    random = np.random.default_rng(0)
    x = random.normal(size=(8, 8, 64, 64))
    forward, caches, channels = [], [], 8
    for width, first in STAGES:
        for layer in range(LAYERS):
            fans = {"in": 9 * channels, "out": 9 * width, "mean": 4.5 * (channels + width)}
            weight = random.normal(size=(width, channels, 3, 3)) * (gain / fans[fan]) ** 0.5
            x, conv = conv2d_forward(x, weight, None, 1 if layer else first, 1)
            forward.append(float((x**2).mean() ** 0.5))
            x, relu = relu_forward(x)
            caches.append((conv, relu))
            channels = width
    grad, backward = random.normal(size=x.shape), []
    for conv, relu in reversed(caches):
        grad = relu_backward(grad, relu)
        grad, _, _ = conv2d_backward(grad, conv)
        backward.append(float((grad**2).mean() ** 0.5))
    return forward, backward[::-1]


@figure
def signal_sizes() -> Figure:
    """Forward and backward signals in a plain chain, for four variances of the weights."""
    fig = Figure(figsize=(8.2, 3.5))
    left, right = fig.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})
    layers = np.arange(1, 3 * LAYERS + 1)
    for gain, fan, color, line, text in (
        (2, "in", BLUE, "-", "He, fan-in"),
        (2, "out", GREEN, "--", "He, fan-out"),
        (1, "mean", RED, "-", "Xavier"),
        (3, "in", PURPLE, "-", "1.5 times He"),
    ):
        forward, backward = sizes(gain, fan)
        left.semilogy(layers, forward, line, color=color, label=text)
        right.semilogy(layers, backward, line, color=color)
    for ax in (left, right):
        for boundary in (LAYERS, 2 * LAYERS):
            ax.axvline(boundary + 0.5, color=GREY, linewidth=0.8, linestyle=":")
        ax.set_xlabel("layer")
        ax.set_xticks([1, 10, 20, 30])
    left.set_ylabel("root mean square")
    left.set_title("forward, before the ReLU")
    right.set_title("back: the gradient of the layer's input")
    handles, texts = left.get_legend_handles_labels()
    order = [3, 0, 1, 2]
    right.legend(
        [handles[k] for k in order],
        [texts[k] for k in order],
        frameon=False,
        fontsize=9.5,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )
    return fig


def _box(ax: Axes, x: float, y: float, width: float, text: str, color: str) -> None:
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - 0.42),
            width,
            0.84,
            boxstyle="round,pad=0.08",
            facecolor=TINT[color],
            edgecolor=color,
            linewidth=1.3,
        )
    )
    label(ax, x, y, text, fontsize=10)


def _block(
    ax: Axes, x: float, title: str, rows: list[tuple[str, float, int]], ends: int, total: str
) -> None:
    """One block from top to bottom; rows are (text, width of its box, weights)."""
    label(ax, x, 0.5, title, fontsize=11.5)
    top, gap = 1.5, 1.75
    label(ax, x + 0.3, top, f"{ends} channels", ha="left", fontsize=9.5, color=GREY)
    bottom = 2.6 + gap * 2 + 1.5
    last = top - 0.4
    for index, (text, width, weights) in enumerate(rows):
        y = 2.6 + (gap * index if len(rows) == 3 else gap * 2 * index)
        arrow(ax, (x, last), (x, y - 0.52))
        _box(ax, x, y, width, text, ORANGE)
        label(ax, x + 2.55, y, f"{weights:,}", ha="left", fontsize=10)
        last = y + 0.52
    arrow(ax, (x, last), (x, bottom - 0.32))
    ax.add_patch(Circle((x, bottom), 0.32, facecolor="white", edgecolor=INK, lw=1.4, zorder=6))
    label(ax, x, bottom, "+", fontsize=12, zorder=7)
    ax.plot([x, x - 2.9, x - 2.9], [top - 0.05, top - 0.05, bottom], color=INK, lw=1.4)
    arrow(ax, (x - 2.9, bottom), (x - 0.32, bottom))
    arrow(ax, (x, bottom + 0.32), (x, bottom + 1.05))
    label(ax, x + 0.3, bottom + 0.85, f"{ends} channels", ha="left", fontsize=9.5, color=GREY)
    label(ax, x + 2.55, bottom, total, ha="left", fontsize=10.5, weight="bold")


@figure
def two_blocks() -> Figure:
    """A basic block and a bottleneck of nearly the same cost, with the weights of each layer."""
    fig, ax = canvas(19.6, 9.2, 0.4)
    wide, narrow = 4.2, 3.0
    basic = [("3 x 3, 64 to 64", wide, 9 * 64 * 64)] * 2
    bottleneck = [
        ("1 x 1, 256 to 64", wide, 256 * 64),
        ("3 x 3, 64 to 64", narrow, 9 * 64 * 64),
        ("1 x 1, 64 to 256", wide, 64 * 256),
    ]
    for x, title, rows, ends in (
        (3.9, "basic block", basic, 64),
        (13.9, "bottleneck", bottleneck, 256),
    ):
        _block(ax, x, title, rows, ends, f"{sum(row[2] for row in rows):,} weights")
    return fig


@figure
def stems() -> Figure:
    """What each stem leaves of an image of 32 x 32 pixels, drawn to scale."""
    fig, ax = canvas(25.6, 12.2, 0.32)
    unit = 3.9 / 32
    for row, stem in ((2.9, "cifar"), (9.1, "imagenet")):
        summary = summarize(build("resnet18", stem=stem))
        layers = {layer.name: layer for layer in summary.layers}
        steps = [("image", 32), ("conv1", layers["conv1"].output_shape[1])]
        if stem == "imagenet":
            steps.append(("pool", layers["maxpool"].output_shape[1]))
        steps += [(f"stage {k}", layers[f"layer{k}.1.conv2"].output_shape[1]) for k in range(1, 5)]
        x = 0.3
        for index, (name, side) in enumerate(steps):
            color = BLUE if index == 0 else ORANGE if name in ("conv1", "pool") else GREEN
            width = side * unit
            room = max(width, 1.9)
            middle = x + room / 2
            ax.add_patch(
                Rectangle(
                    (middle - width / 2, row - width / 2),
                    width,
                    width,
                    facecolor=TINT[color],
                    edgecolor=color,
                )
            )
            label(ax, middle, row + width / 2 + 0.5, name, fontsize=9.5)
            label(ax, middle, row - width / 2 - 0.4, f"{side} x {side}", GREY, fontsize=9)
            x += room + 0.5
        name = "3 x 3" if stem == "cifar" else "7 x 7 with stride 2, then a max pool with stride 2"
        label(ax, 25.4, row - 0.35, name.replace(", then", ",\nthen"), ha="right", fontsize=10)
        total = f"{summary.multiply_adds / 1e6:,.0f} million\nmultiply-adds"
        label(ax, 25.4, row + 1.2, total, ha="right", fontsize=10)
    return fig


SHOWN = {
    "CIFAR family": (BLUE, "o", [f"resnet{d}" for d in (20, 32, 44, 56, 110)]),
    "ImageNet family": (RED, "s", [f"resnet{d}" for d in (18, 34, 50, 101, 152)]),
    "others": (GREEN, "^", ["resnet9", "vgg16", "cnn"]),
}
NAMES = {"resnet9": "ResNet-9", "vgg16": "VGG-16", "cnn": "plain CNN"}
PLACES = {"resnet34": (-5, 6, "right"), "vgg16": (-8, -3, "right"), "cnn": (0, 8, "center")}
"""Where a name does not stand to the lower right of its point: offsets, and the alignment."""


@figure
def families() -> Figure:
    """Parameters and multiply-adds of the networks, for images of 32 x 32 pixels."""
    fig = Figure(figsize=(6.4, 4.2))
    ax = fig.add_subplot()
    for family, (color, marker, names) in SHOWN.items():
        found = [summarize(build(name)) for name in names]
        x = [summary.multiply_adds / 1e6 for summary in found]
        y = [summary.parameters / 1e6 for summary in found]
        line = "" if family == "others" else "-"
        ax.loglog(x, y, marker + line, color=color, label=family, linewidth=1.2, markersize=6)
        for name, a, b in zip(names, x, y, strict=True):
            right, up, side = PLACES.get(name, (7, -11, "left"))
            ax.annotate(
                NAMES.get(name, name.removeprefix("resnet")),
                (a, b),
                (right, up),
                textcoords="offset points",
                ha=side,
                fontsize=9.5,
                color=color,
            )
    ax.set_ylim(0.15, 110)
    ax.set_xlim(22, 7000)
    ax.set_xlabel("multiply-adds of one image, forward, in millions")
    ax.set_ylabel("parameters, in millions")
    ax.legend(frameon=False, fontsize=9.5, loc="upper left")
    return fig
