"""The table of model names, and the one function that builds a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from minires.backend import CPU, Device
from minires.errors import UsageError
from minires.models.cnn import CNN, VGG
from minires.models.network import Network, stage_widths
from minires.models.resnet import Architecture, ResNet
from minires.models.resnet9 import ResNet9
from minires.models.transfer import TransferResNet
from minires.nn import Initializer
from minires.spelling import nearest

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


MAX_STAGES = 8

OPTIONS: dict[str, Any] = {
    "width": 1.0,
    "blocks": None,
    "plain": False,
    "shortcut": None,
    "zero_init_residual": False,
    "dropout": 0.0,
    "head_dropout": None,
    "stem": None,
    "upsample": None,
}
"""What `build` can be asked for, and what stands for "the family's own"."""


@dataclass(frozen=True)
class Family:
    """How to make a network, and which of `OPTIONS` it understands."""

    make: Callable[..., Network]
    options: frozenset[str]


def _make_resnet(
    network: type[ResNet],
    architecture: Architecture,
    num_classes: int,
    *,
    width: float,
    blocks: tuple[int, ...] | None,
    shortcut: str | None,
    stem: str | None,
    upsample: int | None,
    **options: Any,
) -> ResNet:
    blocks = blocks or architecture.blocks
    chosen = replace(
        architecture,
        blocks=blocks,
        widths=stage_widths(architecture.widths, len(blocks), width),
        shortcut=shortcut or architecture.shortcut,
        stem=stem or architecture.stem,
        upsample=upsample or architecture.upsample,
    )
    return network(chosen, num_classes, **options)


def _resnet(network: type[ResNet], architecture: Architecture) -> Family:
    def make(num_classes: int, **options: Any) -> ResNet:
        return _make_resnet(network, architecture, num_classes, **options)

    return Family(make, frozenset(OPTIONS))


_CNN_OPTIONS = frozenset({"width", "blocks", "dropout", "head_dropout"})

MODELS: dict[str, Family] = {
    **{f"resnet{d}": _resnet(ResNet, _cifar_architecture(d)) for d in _NAMED_CIFAR_DEPTHS},
    **{f"resnet{d}": _resnet(ResNet, a) for d, a in IMAGENET_FAMILY.items()},
    "resnet9": Family(ResNet9, frozenset({"width", "plain", "dropout", "head_dropout"})),
    "resnet50-transfer": _resnet(
        TransferResNet, replace(IMAGENET_FAMILY[50], stem="imagenet", upsample=7)
    ),
    "vgg16": Family(VGG, _CNN_OPTIONS),
    "cnn": Family(CNN, _CNN_OPTIONS),
}
"""The names worth listing; any resnet of depth 6n+2 can be built as well."""


def model_names() -> list[str]:
    """The names of `MODELS`."""
    return list(MODELS)


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
    """The architecture behind the name of a ResNet of one of the two families; `UsageError`."""
    digits = name.removeprefix("resnet")
    if name.startswith("resnet") and digits.isdigit():
        depth = int(name_for_depth(int(digits)).removeprefix("resnet"))
        return IMAGENET_FAMILY.get(depth) or _cifar_architecture(depth)
    raise UsageError(f"--model {name}: unknown model{nearest(name, model_names())}")


def family_of(name: str) -> Family:
    """The family behind a model's name; `UsageError` with the nearest name where there is none."""
    return MODELS.get(name) or _resnet(ResNet, architecture_of(name))


def build(
    name: str,
    num_classes: int = 10,
    seed: int = 0,
    *,
    dtype: str = "float32",
    device: Device = CPU,
    **options: Any,
) -> Network:
    """Build the model `name` with weights drawn from `seed`, in training mode.

    Options, for the families that have them (see `MODELS`):
    `width` scales the channels of every stage; `blocks` is the number of residual blocks (or
    convolutions) in each stage, e.g. (4, 4, 3); `plain` takes the shortcuts out; `shortcut` is "A"
    or "B"; `zero_init_residual` starts each block's last batch norm at zero; `dropout` acts inside
    the blocks, `head_dropout` in front of the classes; `stem` is "cifar" or "imagenet"; `upsample`
    enlarges the images by a whole factor. None stands for the family's own.

    The result has `.spec`, the arguments as a dict of JSON's types: `build(**model.spec)` builds
    the same model again. Raises `UsageError` for arguments that describe no model.
    """
    family, chosen = check_arguments(name, options)
    if num_classes < 2:
        raise UsageError(f"--num-classes {num_classes}: must be at least 2")
    spec = {"name": name, "num_classes": num_classes, "seed": seed, **chosen, "dtype": dtype}
    spec["blocks"] = chosen["blocks"] and list(chosen["blocks"])
    model = family.make(
        num_classes,
        init=Initializer(seed, dtype),
        **{option: chosen[option] for option in OPTIONS if option in family.options},
    )
    model.spec = spec
    return model.to(device)


def check_arguments(name: str, options: Mapping[str, Any]) -> tuple[Family, dict[str, Any]]:
    """The family of the model `name`, and all of `OPTIONS` as `build` takes them.

    Nothing is built. Raises `UsageError` for an unknown name, or options that it has not.
    """
    family = family_of(name)
    unknown = set(options) - set(OPTIONS)
    if unknown:
        raise TypeError(f"build has no argument {min(unknown)!r}")
    chosen = OPTIONS | dict(options)
    _check_options(name, family, chosen)
    return family, chosen | {"blocks": _check_blocks(chosen["blocks"])}


def _check_options(name: str, family: Family, chosen: dict[str, Any]) -> None:
    for option, default in OPTIONS.items():
        if chosen[option] != default and option not in family.options:
            known = ", ".join(_flag(o) for o in OPTIONS if o in family.options)
            raise UsageError(f"{_flag(option)}: {name} has no such option; it has {known}")
    if chosen["shortcut"] not in (None, "A", "B"):
        raise UsageError(f"--shortcut {chosen['shortcut']}: unknown; use A or B")
    if chosen["stem"] not in (None, "cifar", "imagenet"):
        raise UsageError(f"--stem {chosen['stem']}: unknown; use cifar or imagenet")
    if not 0 < chosen["width"] <= 64:
        raise UsageError(f"--width {chosen['width']}: must be above 0 and at most 64")
    upsample = chosen["upsample"]
    if upsample is not None and not (type(upsample) is int and 1 <= upsample <= 16):
        raise UsageError(f"--upsample {upsample}: must be a whole number from 1 to 16")


def _check_blocks(blocks: Sequence[int] | None) -> tuple[int, ...] | None:
    if blocks is None:
        return None
    if not 1 <= len(blocks) <= MAX_STAGES or not all(
        type(count) is int and 1 <= count <= 1000 for count in blocks
    ):
        shown = ",".join(map(str, blocks))
        raise UsageError(
            f"--blocks {shown}: must be 1 to {MAX_STAGES} whole numbers above 0, such as 3,4,3"
        )
    return tuple(blocks)


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")
