"""ResNets in torch.nn, built apart from minires: what tests and the benchmark compare with.

Parameter names are torchvision's (conv1, bn1, layer1.0.conv1, layer2.0.downsample.0, fc), the stem
is the one for CIFAR (3x3, stride 1, no pool). Both families of "Deep Residual Learning" are here:
the ImageNet family (section 4.1; four stages of 64 to 512 channels, projection shortcuts) and the
CIFAR family (section 4.2; 6n+2 layers, three stages of 16 to 64 channels, option A shortcuts).

Torch is no requirement of minires: only what needs a comparison imports this file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

IMAGENET_STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class SubsampleAndPad(nn.Module):
    """Option A: every stride-th pixel, zero channels added half before and half after."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        missing = out_channels - in_channels
        self.stride, self.before, self.after = stride, missing // 2, missing - missing // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


def make_shortcut(kind: str, in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """The shortcut where the shape changes: 'A' or 'B' (1x1 convolution and batch norm)."""
    if stride == 1 and in_channels == out_channels:
        return None
    if kind == "A":
        return SubsampleAndPad(in_channels, out_channels, stride)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; `plain` leaves the shortcut out."""

    expansion = 1

    def __init__(self, in_channels, channels, stride, shortcut, plain) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.plain = plain
        self.downsample = None if plain else make_shortcut(shortcut, in_channels, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if not self.plain:
            y = y + (x if self.downsample is None else self.downsample(x))
        return F.relu(y)


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride, as in torchvision), 1x1 to four times the channels."""

    expansion = 4

    def __init__(self, in_channels, channels, stride, shortcut, plain) -> None:
        super().__init__()
        out_channels = 4 * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.plain = plain
        self.downsample = (
            None if plain else make_shortcut(shortcut, in_channels, out_channels, stride)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if not self.plain:
            y = y + (x if self.downsample is None else self.downsample(x))
        return F.relu(y)


class TorchResNet(nn.Module):
    """Stem, stages `layer1`, `layer2`, ..., global average pool, `fc`."""

    def __init__(self, block, blocks, widths, num_classes, shortcut, plain) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        in_channels = widths[0]
        self.stages = [f"layer{i + 1}" for i in range(len(blocks))]
        for i, (name, count, width) in enumerate(zip(self.stages, blocks, widths, strict=True)):
            stage = []
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                stage.append(block(in_channels, width, stride, shortcut, plain))
                in_channels = width * block.expansion
            self.add_module(name, nn.Sequential(*stage))
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(x.mean(dim=(2, 3)))


def build_torch(
    name: str,
    num_classes: int = 10,
    *,
    widths: tuple[int, ...] | None = None,
    shortcut: str | None = None,
    plain: bool = False,
) -> TorchResNet:
    """The torch twin of `minires.models.build(name, ...)`, e.g. "resnet18" or "resnet20".

    `widths` replaces the channels of the stages, e.g. (8, 16, 32) for half of resnet20.
    """
    depth = int(name.removeprefix("resnet"))
    if depth in IMAGENET_STAGES:
        block = BasicBlock if depth < 50 else Bottleneck
        blocks, default_widths, default_shortcut = IMAGENET_STAGES[depth], (64, 128, 256, 512), "B"
    else:
        count, rest = divmod(depth - 2, 6)
        assert rest == 0 and count > 0, f"no ResNet has {depth} layers"
        block, blocks = BasicBlock, (count,) * 3
        default_widths, default_shortcut = (16, 32, 64), "A"
    widths = widths or default_widths
    return TorchResNet(block, blocks, widths, num_classes, shortcut or default_shortcut, plain)


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every value anew from `seed`: weights by He's rule, batch norms far from 0 and 1.

    A fresh model's batch norms are the identity in eval mode, which would hide a mixed-up buffer.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            with torch.no_grad():
                module.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0.0, 0.1, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0.0, 0.1, generator=generator)
                module.running_mean.normal_(0.0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.num_batches_tracked.fill_(7)
    return model


def to_arrays(model: nn.Module) -> dict:
    """The state dict as NumPy arrays, under the same names."""
    return {key: value.detach().cpu().numpy().copy() for key, value in model.state_dict().items()}
