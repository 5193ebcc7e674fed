"""The figures of chapter 11: how an image lies in a file, and what the bytes of a pickle do."""

from __future__ import annotations

import pickletools

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from style import BLUE, GREEN, GREY, INK, ORANGE, PALE, RED, TINT, arrow, canvas, figure, label

from minires.data import load_dataset
from minires.data.pickle_writer import pickle_bytes
from minires.functional.augmentation import augment_batch, draw_augmentation


@figure
def planes() -> Figure:
    """A row of 3,072 bytes, its three planes, and the image that they make."""
    images = load_dataset("shapes", "train").images
    image = images[7]
    fig, ax = canvas(19, 9.2, 0.42)
    label(ax, 0, 0.4, "one row of data: 3,072 bytes", fontsize=11, ha="left")
    colors = ((RED, "red"), (GREEN, "green"), (BLUE, "blue"))
    for place, (color, name) in enumerate(colors):
        left = 6.3333 * place
        ax.add_patch(Rectangle((left, 1), 6.3333, 0.9, facecolor=color, alpha=0.3, edgecolor=INK))
        label(ax, left + 3.1667, 1.45, f"{name}, 1,024 bytes", fontsize=10)
        label(ax, left, 2.25, f"{1024 * place:,}", GREY, fontsize=8.5, ha="left")
        x = 0.6 + 4.7 * place
        arrow(ax, (left + 3.1667, 2.0), (x + 2, 3.5), GREY)
        shade = np.zeros((32, 32, 3))
        shade[..., place] = image[place] / 255
        ax.imshow(shade, extent=(x, x + 4, 7.7, 3.7), interpolation="nearest", zorder=2)
        label(ax, x + 2, 8.15, f"plane {place}: 32 rows of 32", fontsize=9)
    ax.imshow(
        image.transpose(1, 2, 0), extent=(15, 19, 7.7, 3.7), interpolation="nearest", zorder=2
    )
    label(ax, 17, 8.15, "together", fontsize=9)
    label(ax, 14.55, 5.7, "=", fontsize=15)
    ax.set_xlim(0, 19)
    ax.set_ylim(9.2, 0)
    return fig


def stack_after(data: bytes, steps: int) -> list[tuple[str, list[str]]]:
    """The first `steps` opcodes of a pickle, each with the stack after it, in words."""
    stack: list[str] = []
    shown = []
    for opcode, argument, _ in list(pickletools.genops(data))[:steps]:
        text = opcode.name if argument is None else f"{opcode.name} {argument!r}"
        match opcode.name:
            case "EMPTY_DICT":
                stack.append("{ }")
            case "MARK":
                stack.append("mark")
            case "SHORT_BINSTRING" | "BININT1":
                stack.append(repr(argument))
            case "SETITEMS":
                at = len(stack) - stack[::-1].index("mark") - 1
                pairs = stack[at + 1 :]
                inside = ", ".join(
                    f"{k}: {v}" for k, v in zip(pairs[::2], pairs[1::2], strict=True)
                )
                del stack[at - 1 :]
                stack.append("{" + inside + "}")
            case "STOP":
                text = "STOP"
        shown.append((text, list(stack)))
    return shown


@figure
def pickle_stack() -> Figure:
    """The stack of the machine after each opcode of a small pickle."""
    steps = [
        step
        for step in stack_after(pickle_bytes({"label": 3, "name": "ship"}), 99)
        if not step[0].startswith(("PROTO", "BINPUT"))
    ]
    fig, ax = canvas(20, 6.1, 0.42)
    width = 20 / len(steps)
    for place, (text, stack) in enumerate(steps):
        x = place * width
        name, _, argument = text.partition(" ")
        names = {"EMPTY_DICT": "EMPTY_\nDICT", "SHORT_BINSTRING": "SHORT_BIN-\nSTRING"}
        label(ax, x + width / 2, 0.55, names.get(name, name), fontsize=7.5)
        label(ax, x + width / 2, 1.35, argument, ORANGE, fontsize=8.5)
        for height, value in enumerate(stack):
            top = 5.0 - 0.62 * height
            fill = PALE if value == "mark" else TINT[BLUE]
            ax.add_patch(
                Rectangle((x + 0.08, top), width - 0.16, 0.56, facecolor=fill, edgecolor=BLUE)
            )
            short = value if len(value) < 12 else "{ label: 3, \u2026 }"
            label(ax, x + width / 2, top + 0.28, short, fontsize=7.5 if short == value else 6.5)
    ax.plot([0, 20], [5.62, 5.62], color=INK, linewidth=1.2)
    label(ax, 0, 5.92, "the bottom of the stack", GREY, fontsize=8.5, ha="left")
    return fig


@figure
def augmented() -> Figure:
    """One image as it was drawn, and as it is seen in eight epochs."""
    images = load_dataset("shapes", "train").images
    index = np.array([7])
    table = np.tile(np.arange(256, dtype=np.float32) - 110, (3, 1))
    fig, ax = canvas(20, 2.9, 0.42)
    for place in range(9):
        if place:
            offsets, flips = draw_augmentation(0, place - 1, index, 4, True)
            shown = augment_batch(images, index, table, offsets, flips, 4)[0]
        else:
            shown = augment_batch(images, index, table)[0]
        x = 2.2 * place + (0.3 if place else 0)
        picture = ((shown + 110) / 255).clip(0, 1).transpose(1, 2, 0)
        ax.imshow(picture, extent=(x, x + 2, 2.2, 0.2), interpolation="nearest")
        label(ax, x + 1, 2.55, f"epoch {place}" if place else "as it is", fontsize=8.5)
    ax.set_xlim(0, 20.2)
    ax.set_ylim(2.9, 0)
    return fig
