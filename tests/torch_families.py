"""ResNet-9, VGG, the small CNN and the transfer network in torch.nn, with minires's names.

Written from the descriptions of the networks, apart from minires. Dropout is left out.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from minires.analysis.torch_models import build_torch


def conv_block(in_channels: int, channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)
    parts = OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels), relu=nn.ReLU())
    return nn.Sequential(parts)


class TorchResNet9(nn.Module):
    def __init__(self, widths, num_classes) -> None:
        super().__init__()
        a, b, c, d = widths
        self.conv1, self.conv2 = conv_block(3, a), conv_block(a, b)
        self.residual1 = self.residual(b)
        self.conv3, self.conv4 = conv_block(b, c), conv_block(c, d)
        self.residual2 = self.residual(d)
        self.fc = nn.Linear(d, num_classes)

    @staticmethod
    def residual(channels: int) -> nn.Sequential:
        blocks = (conv_block(channels, channels) for _ in range(2))
        return nn.Sequential(OrderedDict(zip(("conv1", "conv2"), blocks, strict=True)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.conv2(self.conv1(x)), 2)
        x = x + self.residual1(x)
        x = F.max_pool2d(self.conv3(x), 2)
        x = F.max_pool2d(self.conv4(x), 2)
        x = x + self.residual2(x)
        return self.fc(F.max_pool2d(x, 4).flatten(1))


class TorchPlainCNN(nn.Module):
    """Stages of convolutions; `hidden` 0: the mean of each channel and `fc`, else a dense head."""

    def __init__(self, blocks, widths, hidden, num_classes) -> None:
        super().__init__()
        channels = 3
        self.stages = len(blocks)
        for i, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            stage = [conv_block(channels if j == 0 else width, width) for j in range(count)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
            channels = width
        if hidden:
            side = 32 // 2**self.stages
            first = nn.Linear(channels * side * side, hidden)
            last = nn.Linear(hidden, num_classes)
            self.head = nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Identity(), last)
        else:
            self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(self.stages):
            x = F.max_pool2d(getattr(self, f"layer{i + 1}")(x), 2)
        return self.head(x) if hasattr(self, "head") else self.fc(x.mean(dim=(2, 3)))


class TorchImageNetResNet(nn.Module):
    """torchvision's resnet50, narrow; `head` True: enlarged images and a dense head for `fc`."""

    def __init__(self, widths, num_classes, upsample=1, head=False) -> None:
        super().__init__()
        inner = build_torch("resnet50", num_classes, widths=widths)
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = inner.bn1
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2 = inner.layer1, inner.layer2
        self.layer3, self.layer4 = inner.layer3, inner.layer4
        self.upsample = upsample
        if head:
            features = 4 * widths[-1]
            self.head = nn.Sequential(
                nn.Flatten(),
                nn.BatchNorm1d(features),
                nn.Linear(features, 256),
                nn.ReLU(),
                nn.Identity(),
                nn.Linear(256, num_classes),
            )
        else:
            self.fc = inner.fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, scale_factor=self.upsample, mode="nearest")
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean(dim=(2, 3))
        return self.head(x) if hasattr(self, "head") else self.fc(x)
