"""The table of model names, and the one function that builds a model."""

from __future__ import annotations

import difflib
from typing import Any

from minires.backend import CPU, Device
from minires.errors import UsageError
from minires.models.resnet import Architecture, ResNet
from minires.nn import Initializer, Module

_IMAGENET_WIDTHS = (64, 128, 256, 512)
_CIFAR_WIDTHS = (16, 32, 64)

IMAGENET_FAMILY = {
    18: Architecture("basic", (2, 2, 2, 2), _IMAGENET_WIDTHS, "B"),
    34: Architecture("basic", (3, 4, 6, 3), _IMAGENET_WIDTHS, "B"),
    50: Architecture("bottleneck", (3, 4, 6, 3), _IMAGENET_WIDTHS, "B"),
    101: Architecture("bottleneck", (3, 4, 23, 3), _IMAGENET_WIDTHS, "B"),
    152: Architecture("bottleneck", (3, 8, 36, 3), _IMAGENET_WIDTHS, "B"),
}
_NAMED_CIFAR_DEPTHS = (8, 14, 20, 32, 44, 56, 110)


def _cifar_architecture(depth: int) -> Architecture:
    blocks = (depth - 2) // 6
    return Architecture("basic", (blocks, blocks, blocks), _CIFAR_WIDTHS, "A")


def model_names() -> list[str]:
    """The names worth listing; any resnet of depth 6n+2 can be built as well."""
    return [f"resnet{d}" for d in (*_NAMED_CIFAR_DEPTHS, *IMAGENET_FAMILY)]


def name_for_depth(depth: int) -> str:
    """The name of the ResNet with `depth` layers; `UsageError` where there is none.

    18, 34, 50, 101 and 152 are the ImageNet family; otherwise 6n+2 (8, 14, 20, ...) is the CIFAR
    family.
    """
    if depth in IMAGENET_FAMILY or (depth >= 8 and (depth - 2) % 6 == 0):
        return f"resnet{depth}"
    raise UsageError(
        f"--depth {depth}: no such ResNet; use 18, 34, 50, 101 or 152 (ImageNet family) "
        "or 6n+2: 8, 14, 20, 32, 44, 56, 110 (CIFAR family)"
    )


def architecture_of(name: str) -> Architecture:
    """The architecture behind a model's name; `UsageError` with the nearest name otherwise."""
    digits = name.removeprefix("resnet")
    if name.startswith("resnet") and digits.isdigit():
        depth = int(name_for_depth(int(digits)).removeprefix("resnet"))
        return IMAGENET_FAMILY.get(depth) or _cifar_architecture(depth)
    near = difflib.get_close_matches(name, model_names(), n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(model_names())}"
    raise UsageError(f"--model {name}: unknown model{hint}")


def build(
    name: str,
    num_classes: int = 10,
    seed: int = 0,
    *,
    width: float = 1.0,
    plain: bool = False,
    shortcut: str | None = None,
    zero_init_residual: bool = False,
    dropout: float = 0.0,
    dtype: str = "float32",
    device: Device = CPU,
) -> Module:
    """Build the model `name` with weights drawn from `seed`, in training mode.

    `width` scales the channels of every stage; `plain` takes the shortcuts out; `shortcut` is "A"
    or "B" instead of the family's own; `dropout` acts inside the blocks. The result has `.spec`,
    the arguments as a dict: `build(**model.spec)` builds the same model again.
    Raises `UsageError` for arguments that describe no model.
    """
    architecture = architecture_of(name)
    if num_classes < 2:
        raise UsageError(f"--num-classes {num_classes}: must be at least 2")
    if shortcut not in (None, "A", "B"):
        raise UsageError(f"--shortcut {shortcut}: unknown; use A or B")
    if not 0 < width <= 64:
        raise UsageError(f"--width {width}: must be above 0 and at most 64")
    widths = tuple(max(1, round(w * width)) for w in architecture.widths)
    architecture = Architecture(
        architecture.block, architecture.blocks, widths, shortcut or architecture.shortcut
    )
    spec: dict[str, Any] = {
        "name": name,
        "num_classes": num_classes,
        "seed": seed,
        "width": width,
        "plain": plain,
        "shortcut": shortcut,
        "zero_init_residual": zero_init_residual,
        "dropout": dropout,
        "dtype": dtype,
    }
    model = ResNet(
        architecture,
        num_classes,
        plain=plain,
        zero_init_residual=zero_init_residual,
        dropout=dropout,
        init=Initializer(seed, dtype),
    )
    model.spec = spec
    return model.to(device)
