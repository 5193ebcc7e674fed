"""Everything about one layer of a network: formulas, shapes, cost, source and live numbers."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from minires.analysis.explanations import (
    EXPLANATIONS,
    Explanation,
    explanation_named,
    explanation_of,
)
from minires.backend import Array, reference_only, to_host
from minires.errors import UsageError
from minires.models import Network
from minires.models.summary import multiply_adds
from minires.nn import ConvBNReLU, CrossEntropyLoss, Module, observe

ROOT = Path(__file__).parents[2]
LOSS_ARRAYS = {"x": "logits", "y": "loss", "grad_x": "grad_logits"}


@dataclass(frozen=True)
class Numbers:
    """An array in a few numbers: shape, mean, standard deviation, Euclidean norm."""

    shape: tuple[int, ...]
    mean: float
    std: float
    norm: float


@dataclass(frozen=True)
class Source:
    """A piece of code: file (from the project's folder), first line, and the lines."""

    file: str
    line: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Explained:
    """What there is to say about one layer; `live` has the arrays by their names in the code."""

    place: str
    kind: str
    explanation: Explanation
    settings: dict[str, Any]
    parameters: dict[str, tuple[int, ...]]
    parameter_count: int
    multiply_adds: int
    sources: tuple[Source, ...]
    live: dict[str, Numbers]
    chapters: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def layer_names(model: Network) -> dict[str, Module]:
    """Every place of `model` that can be explained, with what stands there."""
    return {
        name: module
        for name, module in model.named_modules()
        if name and explanation_of(type(module).__name__)
    }


def find_layer(model: Network, name: str) -> tuple[str, Module]:
    """The place that `name` means: itself, or the first layer of that kind.

    name: a place such as layer1.0.conv1, or a key of `EXPLANATIONS`. Raises `UsageError`.
    """
    places = layer_names(model)
    if name in places:
        return name, places[name]
    explanation = explanation_named(name, list(places))
    if name == "loss":
        return "the loss", CrossEntropyLoss()
    if name == "relu":
        return next((f"behind {at}", unit.relu) for at, unit in _units(model) if unit.relu)
    found = [(at, m) for at, m in places.items() if type(m).__name__ in explanation.kinds]
    for place, module in found:
        if getattr(module, "need_grad_x", True):
            return place, module  # rather than the first convolution, which passes no gradient on
    if found:
        return found[0]
    raise UsageError(f"LAYER {name}: {model.spec['name']} has none; try --model "
                     f"{explanation.model}{_spelt(explanation.options)}")  # fmt: skip


def _units(model: Network) -> list[tuple[str, ConvBNReLU]]:
    """The fused units, each with the name of its convolution."""
    names = {id(module): name for name, module in model.named_modules()}
    found: list[ConvBNReLU] = []
    for module in model.modules():
        if isinstance(module, ConvBNReLU):
            found.append(module)
        found += getattr(module, "_units", [])
    return [(names[id(unit.conv)], unit) for unit in found]


def _spelt(options: tuple[tuple[str, object], ...]) -> str:
    return "".join(f" --{name.replace('_', '-')} {value}" for name, value in options)


def has_kind(model: Network, name: str) -> bool:
    """Whether `model` has a layer of the kind `name`, a key of `EXPLANATIONS`."""
    if name in ("loss", "relu"):
        return True
    kinds = EXPLANATIONS[name].kinds
    return any(type(module).__name__ in kinds for module in model.modules())


def explain(model: Network, name: str, x: Array, labels: Array) -> Explained:
    """Explain the layer `name` of `model` with the live numbers of one training step.

    x: (N, 3, H, W) images; labels: (N,). The step runs the reference in training mode; its running
    statistics move as in training, its parameters keep their values. Raises `UsageError` for a
    layer that there is not.
    """
    place, layer = find_layer(model, name)
    kind = type(layer).__name__
    explanation = explanation_of(kind)
    assert explanation is not None
    arrays = record_step(model, layer, x, labels)
    parameters = dict(layer.named_parameters())
    output = arrays["y"].shape[1:]
    names = LOSS_ARRAYS if name == "loss" else {}
    live = {names.get(key, key): describe(array) for key, array in arrays.items()}
    for key, parameter in parameters.items():
        live[key] = describe(parameter.data)
        live[f"gradient of {key}"] = describe(parameter.grad)
    return Explained(
        place=place,
        kind=kind,
        explanation=explanation,
        settings=settings_of(layer),
        parameters={key: tuple(p.shape) for key, p in parameters.items()},
        parameter_count=sum(p.size for p in parameters.values()),
        multiply_adds=_work(model, layer, x.shape[1:], output),
        sources=tuple(source_of(function) for function in explanation.functions),
        live=live,
        chapters=tuple(map(chapter_file, explanation.chapters)),
    )


def record_step(model: Network, layer: Module, x: Array, labels: Array) -> dict[str, Array]:
    """x, y, grad_output and grad_x of `layer` in one training step; grad_x may be missing."""
    seen: dict[str, Array] = {}
    loss = layer if isinstance(layer, CrossEntropyLoss) else CrossEntropyLoss()
    forward, backward = layer.forward, layer.backward

    def record_forward(*inputs: Array) -> Array:
        y = forward(*inputs)
        seen["x"], seen["y"] = inputs[0], y
        return y

    def record_backward(*grads: Array) -> Any:
        result = backward(*grads)
        if grads:
            seen["grad_output"] = grads[0]
        grad_x = result[0] if isinstance(result, tuple) else result
        if grad_x is not None:
            seen["grad_x"] = grad_x
        return result

    layer.forward, layer.backward = record_forward, record_backward  # type: ignore[method-assign]
    try:
        # Observed layers run one by one, so each has an input and an output of its own.
        with reference_only(), observe(model, lambda *_: None):
            model.train().zero_grad()
            loss.forward(model.forward(x), labels)
            model.backward(loss.backward())
    finally:
        del layer.forward, layer.backward
    return seen


def describe(array: Array) -> Numbers:
    """The shape, mean, standard deviation and norm of an array, in float64."""
    values = to_host(array).astype(np.float64)
    norm = float(np.sqrt((values * values).sum()))
    return Numbers(tuple(values.shape), float(values.mean()), float(values.std()), norm)


def settings_of(layer: Module) -> dict[str, Any]:
    """The numbers that a layer was made with, such as its stride."""
    return {
        name: value
        for name, value in vars(layer).items()
        if not name.startswith("_")
        and name not in ("training", "stays_in_evaluation", "seed", "step", "layer")
        and isinstance(value, int | float | str)
        and name not in ("need_grad_x", "fused")
    }


def _work(model: Network, layer: Module, image: tuple[int, ...], output: tuple[int, ...]) -> int:
    """The multiply-adds of `layer` for one image, those of the layers inside it included."""
    if not list(layer.named_children()):
        return multiply_adds(layer, tuple(output))
    total = 0
    inside = {id(module) for module in layer.modules()}

    def count(name: str, module: Module, x: Array, y: Array) -> None:
        nonlocal total
        if id(module) in inside:
            total += multiply_adds(module, tuple(y.shape[1:]))

    black = np.zeros((1, *image), dtype=np.float32)
    with reference_only(), observe(model.eval(), count):
        model(black)
    model.train()
    return total


def source_of(function: str) -> Source:
    """The code of "module:name", and where it stands; of an operation, the reference."""
    module_name, _, name = function.partition(":")
    found: Callable = reduce(getattr, name.split("."), importlib.import_module(module_name))
    found = getattr(found, "reference", found)
    lines, first = inspect.getsourcelines(found)
    file = Path(inspect.getsourcefile(found) or "").resolve()
    shown = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    lines = textwrap.dedent("".join(lines)).splitlines()
    return Source(shown.as_posix(), first, tuple(lines))


def chapter_file(number: int) -> str:
    """The chapter's file below the project's folder; its number alone where docs is not there."""
    found = sorted((ROOT / "docs").glob(f"{number:02}-*.md"))
    return found[0].relative_to(ROOT).as_posix() if found else f"chapter {number}"
