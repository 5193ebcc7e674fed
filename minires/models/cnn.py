"""Convolutional networks without shortcuts: VGG-16 with batch norm, and a small one.

Source: Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image
recognition", table 1, column D; with batch norm and one linear layer, as usual for CIFAR.
"""

from __future__ import annotations

from minires.errors import UsageError
from minires.models.network import ConvBlock, Network, stage_widths
from minires.nn import (
    Dropout,
    Flatten,
    GlobalAvgPool,
    Initializer,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
)

IMAGE_SIZE = 32
MAX_STAGES = 5
"""Each stage halves the image, and 32 can be halved five times."""


class PlainCNN(Network):
    """Stages of 3x3 convolutions, each stage with a max pool at its end, then a head.

    forward takes images (N, 3, H, W) and returns logits (N, num_classes). The parameters of stage i
    are named layer{i}.0.conv, layer{i}.0.bn, layer{i}.1.conv and so on.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        blocks: tuple[int, ...],
        widths: tuple[int, ...],
        dropout: float,
        head_dropout: float,
        init: Initializer,
    ) -> None:
        super().__init__()
        if len(blocks) > MAX_STAGES:
            raise UsageError(
                f"--blocks: {len(blocks)} stages; 32x32 images can be halved {MAX_STAGES} times"
            )
        channels = 3
        for index, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
            stage: list[Module] = []
            for _ in range(count):
                stage.append(ConvBlock(channels, width, init=init))
                channels = width
            stage.append(MaxPool2d(2))
            if dropout:
                stage.append(Dropout(dropout, init.seed, index))
            setattr(self, f"layer{index}", Sequential(*stage))
        side = IMAGE_SIZE >> len(blocks)
        self._make_head(channels, side, num_classes, head_dropout, init)
        self._chain(*(child for _, child in self.named_children()))

    def _make_head(
        self, channels: int, side: int, num_classes: int, dropout: float, init: Initializer
    ) -> None:
        """Set the layers that make logits of features (N, channels, side, side)."""
        raise NotImplementedError


class VGG(PlainCNN):
    """VGG-16 with batch norm: thirteen convolutions, the mean of each channel, `fc`."""

    def __init__(
        self,
        num_classes: int,
        *,
        width: float = 1.0,
        blocks: tuple[int, ...] | None = None,
        dropout: float = 0.0,
        head_dropout: float | None = None,
        init: Initializer,
    ) -> None:
        blocks = blocks or (2, 2, 3, 3, 3)
        super().__init__(
            num_classes,
            blocks=blocks,
            widths=stage_widths((64, 128, 256, 512, 512), len(blocks), width),
            dropout=dropout,
            head_dropout=head_dropout or 0.0,
            init=init,
        )

    def _make_head(
        self, channels: int, side: int, num_classes: int, dropout: float, init: Initializer
    ) -> None:
        self.pool = GlobalAvgPool()  # for 32x32 images one pixel is left, and this takes it
        if dropout:
            self.dropout = Dropout(dropout, init.seed)
        self.fc = Linear(channels, num_classes, init=init)


class CNN(PlainCNN):
    """Six convolutions and a dense head: flatten, 128 units with ReLU, dropout, the classes.

    The layers of the head are named head.0 to head.4. Images must have 32x32 pixels.
    """

    head_names = ("head",)
    HIDDEN = 128

    def __init__(
        self,
        num_classes: int,
        *,
        width: float = 1.0,
        blocks: tuple[int, ...] | None = None,
        dropout: float = 0.0,
        head_dropout: float | None = None,
        init: Initializer,
    ) -> None:
        blocks = blocks or (2, 2, 2)
        super().__init__(
            num_classes,
            blocks=blocks,
            widths=stage_widths((32, 64, 128), len(blocks), width),
            dropout=dropout,
            head_dropout=0.5 if head_dropout is None else head_dropout,
            init=init,
        )

    def _make_head(
        self, channels: int, side: int, num_classes: int, dropout: float, init: Initializer
    ) -> None:
        self.head = Sequential(
            Flatten(),
            Linear(channels * side * side, self.HIDDEN, init=init),
            ReLU(),
            Dropout(dropout, init.seed),
            Linear(self.HIDDEN, num_classes, init=init),
        )
