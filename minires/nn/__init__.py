"""Layers: parameters and one cache slot around the operations of `minires.functional`."""

from minires.nn.initialization import Initializer
from minires.nn.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    CrossEntropyLoss,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    Upsample,
)
from minires.nn.module import (
    Buffer,
    Module,
    Parameter,
    convolution_weights,
    observe,
    observe_gradients,
)
from minires.nn.residual import BasicBlock, Bottleneck, ConvBNReLU, Projection, ShortcutA

__all__ = [
    "BasicBlock",
    "BatchNorm1d",
    "BatchNorm2d",
    "Bottleneck",
    "Buffer",
    "Conv2d",
    "ConvBNReLU",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "Initializer",
    "Linear",
    "MaxPool2d",
    "Module",
    "Parameter",
    "Projection",
    "ReLU",
    "Sequential",
    "ShortcutA",
    "Upsample",
    "convolution_weights",
    "observe",
    "observe_gradients",
]
