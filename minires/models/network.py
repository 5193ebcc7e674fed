"""What all networks share: parts that run one after the other, a body, and a head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from minires.backend import Array
from minires.nn import BatchNorm2d, Conv2d, ConvBNReLU, Initializer, Module


class Network(Module):
    """A chain of parts from images (N, 3, H, W) to logits (N, num_classes).

    `head_names` are the children that make logits of features; all others are the body.
    `spec` holds the arguments of `minires.models.build` that make this network again.
    """

    head_names: tuple[str, ...] = ("fc",)
    spec: dict[str, Any]

    def _chain(self, *parts: Module) -> None:
        """Set the parts, in the order in which they run."""
        self._parts = list(parts)
        self.first_conv.need_grad_x = False  # nobody asks for the gradient of the pixels

    @property
    def parts(self) -> tuple[Module, ...]:
        """The parts, in the order in which they run."""
        return tuple(self._parts)

    @property
    def first_conv(self) -> Conv2d:
        """The convolution that sees the pixels; with `need_grad_x` set, they get a gradient."""
        return next(module for module in self.modules() if isinstance(module, Conv2d))

    def in_head(self, name: str) -> bool:
        """Whether the parameter or buffer `name` belongs to the head."""
        return name.partition(".")[0] in self.head_names

    def forward(self, x: Array) -> Array:
        for part in self._parts:
            x = part(x)
        return x

    def backward(self, grad_output: Array) -> Array | None:
        """Fill every parameter's `.grad` from grad_output (N, num_classes).

        Ends where everything further in front is frozen. Returns the gradient of the images where
        `first_conv.need_grad_x` is set, else None.
        """
        grad: Array | None = grad_output
        for part in reversed(self._parts):
            if grad is None or part.stays_in_evaluation:
                return None
            grad = part.backward(grad)
        return grad


class Unit(ConvBNReLU):
    """Convolution, batch norm and ReLU as a part of a chain: without a shortcut."""

    def backward(self, grad_output: Array) -> Array | None:
        """The gradient of x."""
        return super().backward(grad_output)[0]


class ConvBlock(Unit):
    """A 3x3 convolution (`conv`), batch norm (`bn`) and ReLU, run as one."""

    def __init__(self, in_channels: int, channels: int, *, init: Initializer) -> None:
        conv = Conv2d(in_channels, channels, 3, 1, 1, init=init)
        super().__init__(conv, BatchNorm2d(channels, init=init))

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The two layers: this unit owns them."""
        yield "conv", self.conv
        yield "bn", self.batch_norm


def stage_widths(widths: Sequence[int], stages: int, factor: float = 1.0) -> tuple[int, ...]:
    """The channels of `stages` stages, times `factor`: after the last of `widths` they double."""
    longer = [*widths[:stages]]
    while len(longer) < stages:
        longer.append(2 * longer[-1])
    return tuple(max(1, round(w * factor)) for w in longer)
