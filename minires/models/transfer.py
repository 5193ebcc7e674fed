"""A ResNet-50 for ImageNet, with larger images in front and a small dense head behind.

The body has torchvision's names, so that weights trained on ImageNet fit. With 32x32 images and a
factor of 7 it sees the 224x224 pixels that it was trained for.
"""

from __future__ import annotations

from minires.models.resnet import ResNet
from minires.nn import (
    BatchNorm1d,
    Dropout,
    Flatten,
    Initializer,
    Linear,
    Module,
    ReLU,
    Sequential,
)

HIDDEN = 256
HEAD_DROPOUT = 0.5


class TransferResNet(ResNet):
    """A ResNet whose head is flatten, batch norm, dense with ReLU, dropout, and the classes.

    The layers of the head are named head.0 to head.5, those of the body as in `ResNet`.
    """

    head_names = ("head",)

    def _make_head(
        self, features: int, num_classes: int, dropout: float | None, init: Initializer
    ) -> list[Module]:
        self.head = Sequential(
            Flatten(),
            BatchNorm1d(features, init=init),
            Linear(features, HIDDEN, init=init),
            ReLU(),
            Dropout(HEAD_DROPOUT if dropout is None else dropout, init.seed),
            Linear(HIDDEN, num_classes, init=init),
        )
        return [self.head]
