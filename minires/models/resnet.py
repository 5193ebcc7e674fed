"""The two ResNet families, and their plain twins without shortcuts.

Source: He et al. 2015, "Deep residual learning for image recognition": section 4.1 (ImageNet
family, here with a stem for 32x32 images) and section 4.2 (CIFAR family).
"""

from __future__ import annotations

from dataclasses import dataclass

from minires.backend import Array
from minires.nn import (
    BasicBlock,
    BatchNorm2d,
    Bottleneck,
    Conv2d,
    ConvBNReLU,
    Dropout,
    GlobalAvgPool,
    Initializer,
    Linear,
    Module,
    Sequential,
)


@dataclass(frozen=True)
class Architecture:
    """What tells one ResNet from another.

    `block` is "basic" or "bottleneck"; `blocks[i]` blocks of `widths[i]` channels make stage i;
    each stage but the first halves the image. `shortcut` is "A" (no parameters) or "B"
    (projection) where the shape changes.
    """

    block: str
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    shortcut: str


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(Module):
    """A 3x3 convolution, stages of residual blocks, the mean of each channel, a linear layer.

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
        init: Initializer,
    ) -> None:
        super().__init__()
        stem_width = architecture.widths[0]
        self.conv1 = Conv2d(3, stem_width, 3, 1, 1, init=init)
        self.conv1.need_grad_x = False  # nobody asks for the gradient of the pixels
        self.bn1 = BatchNorm2d(stem_width, init=init)
        self._stem = [ConvBNReLU(self.conv1, self.bn1)]

        block_class = BLOCKS[architecture.block]
        channels = stem_width
        self._stages: list[Sequential] = []
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
            setattr(self, f"layer{index + 1}", Sequential(*stage))
            self._stages.append(getattr(self, f"layer{index + 1}"))
        self.pool = GlobalAvgPool()
        self.fc = Linear(channels, num_classes, init=init)

    def forward(self, x: Array) -> Array:
        h = self._stem[0](x)
        for stage in self._stages:
            h = stage(h)
        return self.fc(self.pool(h))

    def backward(self, grad_output: Array) -> Array | None:
        """Fill every parameter's `.grad` from grad_output (N, num_classes).

        Returns the gradient of the images where `conv1.need_grad_x` is set, else None.
        """
        grad = self.pool.backward(self.fc.backward(grad_output))
        for stage in reversed(self._stages):
            grad = stage.backward(grad)
        return self._stem[0].backward(grad)[0]
