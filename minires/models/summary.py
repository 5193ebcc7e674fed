"""Counting a model: layers, shapes, parameters and multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from minires.backend import array_module, reference_only
from minires.nn import Conv2d, Linear, Module, Parameter, observe


@dataclass(frozen=True)
class LayerSummary:
    """One layer for one image: shapes without the batch axis."""

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass
class Summary:
    """The layers in the order in which they run, and the totals."""

    layers: list[LayerSummary] = field(default_factory=list)
    parameters: int = 0
    multiply_adds: int = 0


def summarize(model: Module, input_shape: tuple[int, int, int] = (3, 32, 32)) -> Summary:
    """Run one black image of `input_shape` (C, H, W) through `model` and note every layer.

    Multiply-adds are those of convolutions and linear layers, for one image: each output value
    costs one multiply-add for each weight that it meets (and none for a bias), as papers count.
    """
    summary = Summary()

    def note(name: str, module: Module, x, y) -> None:
        if list(module.named_children()):
            return
        own = [p for p in vars(module).values() if isinstance(p, Parameter)]
        summary.layers.append(
            LayerSummary(
                name=name,
                kind=type(module).__name__,
                input_shape=tuple(x.shape[1:]),
                output_shape=tuple(y.shape[1:]),
                parameters=sum(p.size for p in own),
                multiply_adds=multiply_adds(module, tuple(y.shape[1:])),
            )
        )

    was_training = model.training
    first = next(iter(model.named_parameters()))[1].data
    image = array_module(first).zeros((1, *input_shape), dtype=first.dtype)
    with reference_only(), observe(model.eval(), note):
        model(image)
    model.train(was_training)
    summary.parameters = sum(p.size for _, p in model.named_parameters())
    summary.multiply_adds = sum(layer.multiply_adds for layer in summary.layers)
    return summary


def multiply_adds(module: Module, output_shape: tuple[int, ...]) -> int:
    """The multiply-adds of one layer for one image with output (K, P, Q) or (K,)."""
    if isinstance(module, Conv2d):
        _, c, kh, kw = module.weight.shape
        return int(np.prod(output_shape)) * c * kh * kw
    if isinstance(module, Linear):
        return module.weight.size
    return 0
