"""Parts of a network that keep their values while the rest is trained."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

import numpy as np

from minires.backend import Array, Device, array_module, weight_layout
from minires.errors import UsageError
from minires.models.network import Network
from minires.nn import ConvBNReLU, Dropout, Module, Parameter


def freeze(model: Network, patterns: str, device: Device) -> int:
    """Freeze the parameters of `model` that `patterns` name; returns how many values they hold.

    patterns: separated by commas, each a name (`layer1`, `layer2.0.conv1.weight`), a name with `*`
    (`layer*`, `*.bn1`), or `body` or `head`. A module's name stands for all that is inside. Batch
    norms that are frozen whole use their running statistics and keep them. Parts in front of which
    nothing is trained stay in evaluation mode: no dropout, no caches, no backward pass.
    Call it before the optimizer is made. Raises `UsageError` for a pattern that names nothing, and
    where nothing would be left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in (part.strip() for part in patterns.split(",")):
        chosen = [name for name in parameters if _fits(model, name, pattern)]
        if not chosen:
            parts = dict.fromkeys(name.partition(".")[0] for name in parameters)
            raise UsageError(
                f"--freeze {pattern}: {model.spec['name']} has no such part; "
                f"there are body, head, {', '.join(parts)}"
            )
        for name in chosen:
            parameters[name].frozen = True
    frozen = [p for p in parameters.values() if p.frozen]
    if len(frozen) == len(parameters):
        raise UsageError(f"--freeze {patterns}: nothing is left to train")
    for parameter in frozen:
        _settle(parameter, device)
    for part in _frozen_front(model):
        for module in layers_of(part):
            module.stays_in_evaluation = True
    model.train(model.training)
    return sum(p.size for p in frozen)


def layers_of(part: Module) -> Iterator[Module]:
    """A part of a network and all modules that run inside it."""
    yield from part.modules()
    if isinstance(part, ConvBNReLU):
        yield from (part.conv, part.batch_norm)  # a stem's unit borrows them


def _fits(model: Network, name: str, pattern: str) -> bool:
    if pattern in ("body", "head") and model.in_head(name) == (pattern == "head"):
        return True
    pieces = name.split(".")
    prefixes = (".".join(pieces[:end]) for end in range(1, len(pieces) + 1))
    return any(fnmatchcase(prefix, pattern) for prefix in prefixes)


def _frozen_front(model: Network) -> list[Module]:
    """The parts from the first one on that hold no trainable parameter, if any is frozen."""
    front, any_frozen = [], False
    for part in model.parts:
        own = [v for m in layers_of(part) for v in vars(m).values() if isinstance(v, Parameter)]
        if isinstance(part, Dropout) or not all(p.frozen for p in own):
            break
        front.append(part)
        any_frozen = any_frozen or bool(own)
    return front if any_frozen else []


def _settle(parameter: Parameter, device: Device) -> None:
    """Lay a convolution's weights out as the kernels like them: no optimizer will do it."""
    parameter.zero_grad()
    parameter._grad = None
    if parameter.data.ndim == 4:
        parameter.data = _arranged(parameter.data, weight_layout(device))


def _arranged(data: Array, order: tuple[int, ...]) -> Array:
    copy = array_module(data).ascontiguousarray(data.transpose(order))
    return copy.transpose(tuple(int(axis) for axis in np.argsort(order)))
