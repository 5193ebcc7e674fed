"""The cases of the gradient check for layers, residual blocks and whole small networks.

Layers and blocks are checked at every element of their input and their parameters; networks along
one random direction for each parameter and one for all of them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from minires import nn
from minires.analysis.gradcheck import HWNC, STRIDED, Case, Draw, Problem
from minires.backend import Array, array_module, weight_layout
from minires.models import build
from minires.nn import Initializer, Module
from minires.nn.residual import ResidualBlock


def module_cases() -> list[Case]:
    """All cases of this file."""
    groups = (("layer", _layers), ("block", _blocks), ("network", _networks))
    return [Case(name, kind, make) for kind, group in groups for name, make in group()]


Cases = Iterator[tuple[str, Callable[[Draw], Problem]]]


def randomize(module: Module, draw: Draw) -> Module:
    """Draw every parameter of `module` anew, none at a special value; return it.

    A fresh batch norm has scale 1 and shift 0, which would hide a forgotten factor. A scale that
    starts at 0 (`zero_init_residual`) stays there. Weights of convolutions lie in memory as the
    kernels of the device like them.
    """
    layout = weight_layout(draw.device)
    for name, parameter in module.named_parameters():
        shape = parameter.shape
        if len(shape) > 1:
            fan_in = int(parameter.size / shape[0])
            order = layout if len(shape) == 4 else None
            parameter.data = draw.normal(*shape, scale=(2 / fan_in) ** 0.5, order=order)
        elif name.endswith("bias"):
            parameter.data = draw.normal(*shape, scale=0.5)
        else:
            starts_at_zero = not parameter.data.any()
            parameter.data = draw.uniform(*shape, low=0.5, high=1.5)
            parameter.data *= not starts_at_zero
        parameter._grad = None
    return module.to(draw.device)


def problem_of_module(module: Module, x: Array, grad_order: Any = None) -> Problem:
    """`module`, already random, at x: derivatives by x and by every parameter."""

    def gradients(grad_output: Array) -> dict[str, Array]:
        module.zero_grad()
        module(x)
        grad_x = module.backward(grad_output)
        return {"x": grad_x, **_gradients_of(module)}

    return Problem({"x": x, **_values_of(module)}, lambda: module(x), gradients, grad_order)


def _values_of(module: Module) -> dict[str, Array]:
    return {name: parameter.data for name, parameter in module.named_parameters()}


def _gradients_of(module: Module) -> dict[str, Array]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def module_case(
    make_module: Callable[[Initializer], Module],
    shape: tuple[int, ...],
    *,
    values: str = "normal",
    order: Any = None,
) -> Callable[[Draw], Problem]:
    """A layer or block at an input of `shape`; `values` names the method of `Draw` for it."""

    def make(draw: Draw) -> Problem:
        module = randomize(make_module(Initializer(0, draw.dtype.name)), draw)
        return problem_of_module(module, getattr(draw, values)(*shape, order=order))

    return make


# --- layers ---------------------------------------------------------------------------------


class Joined(Module):
    """One `ConvBNReLU` whose second input is a fixed shortcut, as a module of one input."""

    def __init__(self, init: Initializer, shortcut: Array | None, fused: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, 1, 1, init=init)
        self.bn = nn.BatchNorm2d(3, init=init)
        self._units = [nn.ConvBNReLU(self.conv, self.bn)]
        self._units[0].fused = fused
        self._shortcut = shortcut

    def forward(self, x: Array) -> Array:
        return self._units[0](x, self._shortcut)

    def backward(self, grad_output: Array) -> Array:
        return self._units[0].backward(grad_output)[0]


def _unit(fused: bool) -> Callable[[Draw], Problem]:
    def make(draw: Draw) -> Problem:
        unit = Joined(Initializer(0, draw.dtype.name), draw.normal(2, 3, 4, 3), fused)
        return problem_of_module(randomize(unit, draw), draw.normal(2, 2, 4, 3))

    return make


def _small_chain(init: Initializer) -> Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, 1, 1, bias=True, init=init),
        nn.BatchNorm2d(3, init=init),
        nn.ReLU(),
        nn.GlobalAvgPool(),
        nn.Linear(3, 4, init=init),
    )


def _accumulating(draw: Draw) -> Problem:
    """Two batches, one after the other: parameter gradients add up, stale ones are forgotten."""
    module = randomize(_small_chain(Initializer(0, draw.dtype.name)), draw)
    batches = {"x": draw.normal(2, 2, 3, 4), "second x": draw.normal(2, 2, 3, 4)}
    xp = array_module(batches["x"])

    def run() -> Array:
        return xp.concatenate([module(x) for x in batches.values()])

    def gradients(grad_output: Array) -> dict[str, Array]:
        found = {}
        module(batches["x"])
        module.backward(grad_output[:2])
        module.zero_grad()
        for name, grad in zip(batches, (grad_output[:2], grad_output[2:]), strict=True):
            module(batches[name])
            found[name] = module.backward(grad)
        return {**found, **_gradients_of(module)}

    return Problem({**batches, **_values_of(module)}, run, gradients)


def _frozen(draw: Draw) -> Problem:
    """Frozen layers still pass the gradient on to x."""
    init = Initializer(0, draw.dtype.name)
    layers = (nn.Conv2d(2, 3, 3, 1, 1, init=init), nn.BatchNorm2d(3, init=init))
    module = randomize(nn.Sequential(*layers), draw)
    for _, parameter in module.named_parameters():
        parameter.frozen = True
    problem = problem_of_module(module, draw.normal(2, 2, 4, 3))
    problem.inputs = {"x": problem.inputs["x"]}
    return problem


def _loss_layer(smoothing: float) -> Callable[[Draw], Problem]:
    def make(draw: Draw) -> Problem:
        logits = draw.normal(3, 4)
        labels = array_module(logits).asarray(draw.random.integers(0, 4, 3))
        loss = nn.CrossEntropyLoss(smoothing)

        def gradients(_: Array) -> dict[str, Array]:
            loss(logits, labels)
            return {"logits": loss.backward()}

        return Problem({"logits": logits}, lambda: loss(logits, labels), gradients, scalar=True)

    return make


def _layers() -> Cases:
    shape = (2, 3, 5, 4)
    yield "Conv2d: bias", module_case(
        lambda init: nn.Conv2d(3, 2, 3, 2, 1, bias=True, init=init), shape
    )
    yield "Conv2d: input with gaps", module_case(
        lambda init: nn.Conv2d(3, 2, 3, init=init), shape, order=STRIDED
    )
    yield "BatchNorm2d: training", module_case(lambda init: nn.BatchNorm2d(3, init=init), shape)
    yield "BatchNorm1d: training", module_case(lambda init: nn.BatchNorm1d(3, init=init), (5, 3))
    yield "BatchNorm2d: frozen, behind a frozen convolution", _frozen
    yield "ReLU: training", module_case(lambda _: nn.ReLU(), shape, values="away_from_zero")
    yield "MaxPool2d: 3x3, stride 2", module_case(
        lambda _: nn.MaxPool2d(3, 2, 1), shape, values="distinct"
    )
    yield "GlobalAvgPool: training", module_case(lambda _: nn.GlobalAvgPool(), shape)
    yield "Upsample: factor 2", module_case(lambda _: nn.Upsample(2), shape)
    yield "Flatten: images", module_case(lambda _: nn.Flatten(), shape)
    yield "Linear: bias", module_case(lambda init: nn.Linear(4, 3, init=init), (2, 4))
    yield "Linear: no bias", module_case(lambda init: nn.Linear(4, 3, False, init=init), (2, 4))
    yield "Dropout: fixed mask", module_case(lambda _: nn.Dropout(0.4, seed=1, layer=2), shape)
    yield "ShortcutA: stride 2", module_case(lambda _: nn.ShortcutA(6, 2), shape)
    yield "Projection: stride 2", module_case(
        lambda init: nn.Projection(3, 4, 2, init=init), shape
    )
    yield "ConvBNReLU: fused", _unit(True)
    yield "ConvBNReLU: one by one", _unit(False)
    yield "Sequential: five layers", module_case(_small_chain, (2, 2, 3, 4))
    yield "Sequential: two batches add up", _accumulating
    yield "CrossEntropyLoss: plain", _loss_layer(0.0)
    yield "CrossEntropyLoss: label smoothing", _loss_layer(0.1)


# --- blocks ---------------------------------------------------------------------------------


def _block(
    kind: type[nn.BasicBlock] | type[nn.Bottleneck],
    in_channels: int,
    channels: int,
    stride: int = 1,
    *,
    dropout: float = 0.0,
    fused: bool = True,
    order: Any = None,
    **options: Any,
) -> Callable[[Draw], Problem]:
    def make_module(init: Initializer) -> Module:
        drop = nn.Dropout(dropout, seed=3, layer=1) if dropout else None
        block = kind(in_channels, channels, stride, dropout=drop, init=init, **options)
        for unit in block._units:
            unit.fused = fused
        return block

    return module_case(make_module, (2, in_channels, 4, 3), order=order)


def _blocks() -> Cases:
    basic, bottleneck = nn.BasicBlock, nn.Bottleneck
    yield "BasicBlock: identity", _block(basic, 2, 2)
    yield "BasicBlock: shortcut A", _block(basic, 2, 4, 2, shortcut="A")
    yield "BasicBlock: shortcut B", _block(basic, 2, 3, 2, shortcut="B")
    yield "BasicBlock: shortcut B, stride 1", _block(basic, 2, 3, 1, shortcut="B")
    yield "BasicBlock: plain", _block(basic, 2, 2, plain=True)
    yield "BasicBlock: plain, stride 2", _block(basic, 2, 3, 2, plain=True)
    yield "BasicBlock: dropout", _block(basic, 2, 2, dropout=0.3)
    yield "BasicBlock: identity, one by one", _block(basic, 2, 2, fused=False)
    yield "BasicBlock: identity, H,W,N,C in memory", _block(basic, 2, 2, order=HWNC)
    yield "Bottleneck: identity", _block(bottleneck, 4, 1)
    yield "Bottleneck: shortcut A", _block(bottleneck, 2, 1, 2, shortcut="A")
    yield "Bottleneck: shortcut B", _block(bottleneck, 3, 1, 2, shortcut="B")
    yield "Bottleneck: plain", _block(bottleneck, 3, 1, 2, plain=True)
    yield "Bottleneck: dropout, one by one", _block(bottleneck, 4, 1, dropout=0.3, fused=False)


# --- networks -------------------------------------------------------------------------------


def network(
    name: str,
    width: float,
    image: tuple[int, int] = (8, 8),
    *,
    loss: bool = False,
    order: Any = None,
    **options: Any,
) -> Callable[[Draw], Problem]:
    """A small network of any family, with or without the loss at its end."""

    def make(draw: Draw) -> Problem:
        model = build(name, 5, width=width, dtype=draw.dtype.name, device=draw.device, **options)
        model.first_conv.need_grad_x = True
        x = draw.normal(3, 3, *image, order=order)
        randomize(model, draw)
        _calm(model)
        problem = problem_of_module(model, x)
        if loss:
            labels = array_module(x).asarray(draw.random.integers(0, 5, 3))
            problem = _with_loss(model, x, labels)
        problem.directions = True
        return problem

    return make


def _calm(model: Module) -> None:
    """Weaken the body of every residual block to a quarter of its shortcut.

    A deep network with random scales multiplies a small change from block to block, until no step
    is small enough for a difference.
    """
    for module in model.modules():
        if isinstance(module, ResidualBlock) and not module.plain:
            module._units[-1].batch_norm.weight.data *= 0.25


def _with_loss(model: Module, x: Array, labels: Array) -> Problem:
    loss = nn.CrossEntropyLoss(0.1)

    def gradients(_: Array) -> dict[str, Array]:
        model.zero_grad()
        loss(model(x), labels)
        grad_x = model.backward(loss.backward())
        return {"x": grad_x, **_gradients_of(model)}

    inputs = {"x": x, **_values_of(model)}
    return Problem(inputs, lambda: loss(model(x), labels), gradients, scalar=True)


def _networks() -> Cases:
    yield "network: resnet8", network("resnet8", 0.25)
    yield "network: resnet20, 9x7 images", network("resnet20", 0.125, (9, 7))
    yield "network: resnet20 with loss", network("resnet20", 0.125, loss=True)
    yield "network: resnet20, shortcut B", network("resnet20", 0.125, shortcut="B")
    yield "network: resnet20, plain", network("resnet20", 0.125, plain=True)
    yield "network: resnet14, zero-init residual", network(
        "resnet14", 0.125, zero_init_residual=True
    )
    yield "network: resnet14, dropout", network("resnet14", 0.125, dropout=0.2)
    yield "network: resnet14, H,W,N,C in memory", network("resnet14", 0.125, order=HWNC)
    yield "network: resnet18", network("resnet18", 1 / 32, (10, 9))
    yield "network: resnet18 with loss", network("resnet18", 1 / 32, (10, 9), loss=True)
    yield "network: resnet18, shortcut A", network("resnet18", 1 / 32, (10, 9), shortcut="A")
    yield "network: resnet18, zero-init residual", network(
        "resnet18", 1 / 32, (10, 9), zero_init_residual=True
    )
    yield "network: resnet50", network("resnet50", 1 / 32, (10, 9))
    yield "network: resnet18, three stages, stem for ImageNet", network(
        "resnet18", 1 / 32, (20, 18), blocks=(1, 2, 1), stem="imagenet", head_dropout=0.3
    )
    yield "network: resnet50-transfer", network(
        "resnet50-transfer", 1 / 32, (10, 9), blocks=(1, 1), upsample=2
    )
    yield "network: resnet9", network("resnet9", 1 / 64, (32, 32))
    yield "network: resnet9, plain, dropout", network(
        "resnet9", 1 / 64, (32, 32), plain=True, dropout=0.2, head_dropout=0.2
    )
    yield "network: vgg16, five convolutions", network(
        "vgg16", 1 / 32, (32, 32), blocks=(1, 1, 1, 1, 1), dropout=0.2
    )
    yield "network: cnn", network("cnn", 1 / 32, (32, 32))
