"""The two ResNet families, and their plain twins without shortcuts.

Source: He et al. 2015, "Deep residual learning for image recognition": section 4.1 (ImageNet
family, with its own stem or one for 32x32 images) and section 4.2 (CIFAR family).
"""

from __future__ import annotations

from dataclasses import dataclass

from minires.models.network import Network, Unit
from minires.nn import (
    BasicBlock,
    BatchNorm2d,
    Bottleneck,
    Conv2d,
    Dropout,
    GlobalAvgPool,
    Initializer,
    Linear,
    MaxPool2d,
    Module,
    Sequential,
    Upsample,
)


@dataclass(frozen=True)
class Architecture:
    """What tells one ResNet from another.

    `block` is "basic" or "bottleneck"; `blocks[i]` blocks of `widths[i]` channels make stage i;
    each stage but the first halves the image. `shortcut` is "A" (no parameters) or "B"
    (projection) where the shape changes. `stem` is "cifar" (3x3) or "imagenet" (7x7 with stride 2,
    then a 3x3 max pool with stride 2); images are enlarged by `upsample` before it.
    """

    block: str
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    shortcut: str
    stem: str = "cifar"
    upsample: int = 1


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(Network):
    """A stem, stages of residual blocks, the mean of each channel, a linear layer.

    forward takes images (N, 3, H, W) and returns logits (N, num_classes). Parameters are named as
    in torchvision: conv1, bn1, layer1.0.conv1, ..., layer2.0.downsample.0, ..., fc.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int,
        *,
        plain: bool = False,
        zero_init_residual: bool = False,
        dropout: float = 0.0,
        head_dropout: float | None = None,
        init: Initializer,
    ) -> None:
        super().__init__()
        stem = self._make_stem(architecture, init)
        stages = self._make_stages(architecture, plain, zero_init_residual, dropout, init)
        self.pool = GlobalAvgPool()
        features = architecture.widths[-1] * BLOCKS[architecture.block].expansion
        head = self._make_head(features, num_classes, head_dropout, init)
        self._chain(*stem, *stages, self.pool, *head)

    def _make_stem(self, architecture: Architecture, init: Initializer) -> list[Module]:
        width = architecture.widths[0]
        parts: list[Module] = []
        if architecture.upsample > 1:
            self.upsample = Upsample(architecture.upsample)
            parts.append(self.upsample)
        imagenet = architecture.stem == "imagenet"
        kernel, stride, padding = (7, 2, 3) if imagenet else (3, 1, 1)
        self.conv1 = Conv2d(3, width, kernel, stride, padding, init=init)
        self.bn1 = BatchNorm2d(width, init=init)
        parts.append(Unit(self.conv1, self.bn1))
        if imagenet:
            self.maxpool = MaxPool2d(3, 2, 1)
            parts.append(self.maxpool)
        return parts

    def _make_stages(
        self,
        architecture: Architecture,
        plain: bool,
        zero_init_residual: bool,
        dropout: float,
        init: Initializer,
    ) -> list[Module]:
        block_class = BLOCKS[architecture.block]
        channels = architecture.widths[0]
        stages: list[Module] = []
        number = 0
        for index, (count, width) in enumerate(
            zip(architecture.blocks, architecture.widths, strict=True)
        ):
            stage = []
            for position in range(count):
                number += 1
                block = block_class(
                    channels,
                    width,
                    stride=2 if index > 0 and position == 0 else 1,
                    plain=plain,
                    shortcut=architecture.shortcut,
                    dropout=Dropout(dropout, init.seed, number) if dropout else None,
                    init=init,
                )
                channels = width * block_class.expansion
                if zero_init_residual and not plain:
                    block.zero_init_last_gamma()
                stage.append(block)
            stages.append(Sequential(*stage))
            setattr(self, f"layer{index + 1}", stages[-1])
        return stages

    def _make_head(
        self, features: int, num_classes: int, dropout: float | None, init: Initializer
    ) -> list[Module]:
        """The parts that make logits of the mean features (N, features)."""
        parts: list[Module] = []
        if dropout:
            self.dropout = Dropout(dropout, init.seed)
            parts.append(self.dropout)
        self.fc = Linear(features, num_classes, init=init)
        return [*parts, self.fc]
