"""ResNet-9: a wide, shallow residual network that learns CIFAR-10 in few epochs.

Source: the entry of David Page to Stanford's DAWNBench, described in "How to train your ResNet"
(2018); its max pools follow the convolutions, and its shortcuts are added after the ReLU.
"""

from __future__ import annotations

from minires import functional as F
from minires.backend import Array
from minires.models.network import ConvBlock, Network, stage_widths
from minires.nn import Dropout, Flatten, Initializer, Linear, MaxPool2d, Module

WIDTHS = (64, 128, 256, 512)


class Residual(Module):
    """y = x + body(x), where body is two `ConvBlock`s; without the x if `plain`."""

    def __init__(
        self, channels: int, *, plain: bool, dropout: Dropout | None, init: Initializer
    ) -> None:
        super().__init__()
        self.plain = plain
        self.conv1 = ConvBlock(channels, channels, init=init)
        self.dropout = dropout
        self.conv2 = ConvBlock(channels, channels, init=init)

    def forward(self, x: Array) -> Array:
        y = x
        for _, layer in self.named_children():
            y = layer(y)
        return y if self.plain else F.add(x, y)

    def backward(self, grad_output: Array) -> Array:
        grad_body = grad_output
        for _, layer in reversed(list(self.named_children())):
            grad_body = layer.backward(grad_body)
        return grad_body if self.plain else F.add(grad_output, grad_body)


class ResNet9(Network):
    """Eight convolutions and a linear layer, for images of 32x32 pixels: logits (N, num_classes).

    conv1, conv2 and pool, residual1, conv3 and pool, conv4 and pool, residual2, a 4x4 max pool, fc.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        width: float = 1.0,
        plain: bool = False,
        dropout: float = 0.0,
        head_dropout: float | None = None,
        init: Initializer,
    ) -> None:
        super().__init__()
        a, b, c, d = stage_widths(WIDTHS, 4, width)

        def residual(channels: int, number: int) -> Residual:
            drop = Dropout(dropout, init.seed, number) if dropout else None
            return Residual(channels, plain=plain, dropout=drop, init=init)

        self.conv1 = ConvBlock(3, a, init=init)
        self.conv2 = ConvBlock(a, b, init=init)
        self.pool2 = MaxPool2d(2)
        self.residual1 = residual(b, 1)
        self.conv3 = ConvBlock(b, c, init=init)
        self.pool3 = MaxPool2d(2)
        self.conv4 = ConvBlock(c, d, init=init)
        self.pool4 = MaxPool2d(2)
        self.residual2 = residual(d, 2)
        self.pool = MaxPool2d(4)
        self.flatten = Flatten()
        if head_dropout:
            self.dropout = Dropout(head_dropout, init.seed)
        self.fc = Linear(d, num_classes, init=init)
        self._chain(*(child for _, child in self.named_children()))
