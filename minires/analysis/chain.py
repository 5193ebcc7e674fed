"""A network as a chain of modules, each with a name, and what flows between them.

A stage counts as its blocks, so the chain of a ResNet is stem, layer1.0, layer1.1, ..., pool, fc.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from minires.backend import Array, to_host
from minires.errors import UsageError
from minires.models.network import Network
from minires.nn import Dropout, Module, Sequential
from minires.spelling import nearest

SMALLEST_MAP = 4
"""Pixels per side below which a feature map says little about places."""


def chain_of(model: Network) -> dict[str, Module]:
    """The modules that run one after the other, by name, stages and heads taken apart."""
    names = {id(child): name for name, child in model.named_children()}
    chain: dict[str, Module] = {}
    for part in model.parts:
        name = names.get(id(part), "stem")
        if isinstance(part, Sequential):
            chain |= {f"{name}.{number}": module for number, module in part.named_children()}
        else:
            chain[name] = part
    return chain


def outputs_of(model: Network, x: Array) -> dict[str, np.ndarray]:
    """What each part of the chain makes of x (N, 3, H, W) in evaluation, copied to the host."""
    model.eval()
    outputs = {}
    for name, module in chain_of(model).items():
        x = module(x)
        outputs[name] = to_host(x).copy()
    return outputs


def map_sizes(model: Network, x: Array) -> dict[str, tuple[int, int]]:
    """Height and width of the maps that each part of the chain makes of images x, in order.

    Parts that make no maps (N, C, h, w), as behind the last pool, are left out.
    """
    outputs = outputs_of(model, x[:1])
    return {name: y.shape[2:] for name, y in outputs.items() if y.ndim == 4}


def find_maps(model: Network, x: Array, name: str | None = None) -> str:
    """The part of the chain that `name` means: itself, or a stage's last block.

    None: the last one whose maps have at least 4 x 4 pixels. Raises `UsageError` with the nearest
    name.
    """
    sizes = map_sizes(model, x)
    if name is None:
        large = [n for n, size in sizes.items() if min(size) >= SMALLEST_MAP]
        return large[-1] if large else max(sizes, key=lambda n: min(sizes[n]))
    ends = stage_ends(sizes)
    if name not in sizes and name not in ends:
        known = list(dict.fromkeys([*sizes, *ends]))
        raise UsageError(f"--layer {name}: {model.spec['name']} has no such maps"
                         f"{nearest(name, known)}")  # fmt: skip
    return name if name in sizes else ends[name]


def stage_ends(names: Iterable[str]) -> dict[str, str]:
    """The last part of each stage, by the stage's name: {"stem": "stem", "layer1": "layer1.2"}."""
    return {name.partition(".")[0]: name for name in names}


@contextmanager
def gradients_in_evaluation(model: Network) -> Iterator[None]:
    """Let backward passes follow what the network does in evaluation, and leave no trace.

    While it lasts, batch norm uses its running statistics, dropout drops nothing, and the caches of
    backward are kept; parameters are frozen, so no gradient is added to them.
    """
    parameters = [(p, p.frozen) for _, p in model.named_parameters()]
    dropouts = [(m, m.p) for m in model.modules() if isinstance(m, Dropout)]
    was_training = model.training
    try:
        for parameter, _ in parameters:
            parameter.frozen = True
        for module, _ in dropouts:
            module.p = 0.0
        model.train()
        yield
    finally:
        for parameter, frozen in parameters:
            parameter.frozen = frozen
        for module, p in dropouts:
            module.p = p
        model.train(was_training)
