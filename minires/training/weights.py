"""Weights from and for torch.nn: safetensors files under PyTorch's names and shapes.

minires names its parameters as torchvision does, so most files fit as they are. `read_weights`
evens out what differs between common ResNets: a wrapper's prefix, `linear` for `fc`, `shortcut` for
`downsample`, `num_batches_tracked` there or not, and the floating-point type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minires.data import Normalization
from minires.errors import CheckpointError
from minires.models.network import Network
from minires.nn import Module
from minires.nn.module import state_problems
from minires.training.checkpoint import METADATA_KEY
from minires.training.tensor_file import read_tensors, write_tensors

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
"""Over all pixels of the 50,000 training images, scaled to 0..1."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""What torchvision's weights for ImageNet expect."""

CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)

WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and common training frameworks put before every name."""

NOTE_KEY = "minires_weights"


@dataclass(frozen=True)
class Weights:
    """The arrays of a file by torchvision's names, float32, and the note that `export` left."""

    arrays: Mapping[str, np.ndarray]
    note: Mapping[str, Any]


@dataclass(frozen=True)
class Pretrained:
    """What was loaded of a file, in words, and the normalisation that its weights expect."""

    note: str
    normalization: Normalization


def read_weights(path: Path) -> Weights:
    """Read the weights in the safetensors file `path` and give them torchvision's names.

    Raises `CheckpointError` for a file that is no safetensors file, that has two arrays for one
    name, or values that float32 cannot hold.
    """
    tensors, metadata = read_tensors(path)
    if METADATA_KEY in metadata:
        raise CheckpointError(
            f"{path}: a minires checkpoint already; use it in its run folder, or export it first"
        )
    arrays: dict[str, np.ndarray] = {}
    origins: dict[str, str] = {}
    for origin, array in tensors.items():
        name = standard_name(origin)
        if name in arrays:
            raise CheckpointError(f"{path}: {origins[name]} and {origin} both mean {name}")
        arrays[name], origins[name] = _standard_type(path, name, array), origin
    return Weights(arrays, _read_note(metadata))


def standard_name(name: str) -> str:
    """The torchvision name for `name`, e.g. fc.weight for module.linear.weight."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in WRAPPER_PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    if name.startswith("linear."):
        name = "fc." + name.removeprefix("linear.")
    return name.replace(".shortcut.", ".downsample.")


def import_weights(model: Module, path: Path) -> Weights:
    """Load the file `path` into `model` and return what was read.

    Raises `CheckpointError`, and leaves the model as it was, with the list of all that is missing,
    unexpected or of a wrong shape.
    """
    weights = read_weights(path)
    holders = dict((*model.named_parameters(), *model.named_buffers()))
    shapes = {name: tuple(holder.data.shape) for name, holder in holders.items()}
    problems = state_problems(shapes, dict(weights.arrays))
    if problems:
        hint = _hint(shapes, weights.arrays)
        raise CheckpointError(
            f"{path} does not fit {model.spec['name']}: {'; '.join(problems)}{hint}"
        )
    model.load_state_dict(dict(weights.arrays))
    return weights


def load_pretrained(model: Network, path: Path) -> Pretrained:
    """Load the body of `model` from the file `path`, and the head too if it is the same.

    The normalisation is that which the file notes, as `export` leaves it, else ImageNet's. Raises
    `CheckpointError`, and leaves the model as it was, with the list of all that is missing,
    unexpected or of a wrong shape in the body.
    """
    weights = read_weights(path)
    arrays = dict(weights.arrays)
    holders = dict((*model.named_parameters(), *model.named_buffers()))
    shapes = {name: tuple(holder.data.shape) for name, holder in holders.items()}
    heads = {"fc", *model.head_names}
    head = {name: arrays.pop(name) for name in list(arrays) if name.partition(".")[0] in heads}
    body_shapes = {name: shape for name, shape in shapes.items() if not model.in_head(name)}
    problems = state_problems(body_shapes, arrays)
    if problems:
        hint = _hint(shapes, arrays)
        raise CheckpointError(
            f"{path} does not fit the body of {model.spec['name']}: {'; '.join(problems)}{hint}"
        )
    head_shapes = {name: shape for name, shape in shapes.items() if model.in_head(name)}
    fits = not state_problems(head_shapes, head)
    model.load_state_dict(model.state_dict() | arrays | (head if fits else {}))
    normalization = Normalization(
        noted_triple(weights.note, "mean") or IMAGENET_MEAN,
        noted_triple(weights.note, "std") or IMAGENET_STD,
    )
    if fits:
        return Pretrained(f"body and head from {path}", normalization)
    ignored = ", ".join(sorted({name.partition(".")[0] for name in head}))
    note = f"; its {ignored} is ignored, the head here is another" if ignored else ""
    return Pretrained(f"body from {path}{note}", normalization)


def noted_triple(note: Mapping[str, Any], name: str) -> tuple[float, ...] | None:
    """The three numbers, one for each colour, that a file notes under `name`; None if none."""
    values = note.get(name)
    good = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
    return tuple(values) if good and len(values) == 3 else None


def export_weights(
    path: Path, arrays: Mapping[str, np.ndarray], note: Mapping[str, Any] | None = None
) -> None:
    """Write a state dict as the safetensors file that `torch.nn.Module.load_state_dict` takes.

    `note` (JSON's types; mean and std, say) goes into the metadata and comes back from
    `read_weights`. Raises `CheckpointError` if the file cannot be written.
    """
    write_tensors(path, arrays, {"format": "pt", NOTE_KEY: json.dumps(note or {})})


def _standard_type(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """`array` as float32, or as int64 if it counts batches."""
    if name.endswith("num_batches_tracked"):
        return array.astype(np.int64)
    if array.dtype.kind != "f":
        raise CheckpointError(f"{path}: {name} is {array.dtype}, not floating point")
    with np.errstate(over="ignore"):
        result = array.astype(np.float32)
    if not np.isfinite(result).all():
        raise CheckpointError(f"{path}: {name} holds NaN, infinity or more than float32 can hold")
    return result


def _read_note(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What `export_weights` noted; empty for files from elsewhere."""
    try:
        note = json.loads(metadata.get(NOTE_KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def _hint(shapes: Mapping[str, tuple[int, ...]], arrays: Mapping[str, np.ndarray]) -> str:
    """The option that would probably make the file fit, for the end of the error line."""
    if "layer1.0.conv1.weight" not in shapes:
        return ""  # no ResNet of the two families: it has none of these options
    classes = arrays["fc.weight"].shape[:1] if "fc.weight" in arrays else ()
    projects = any(".downsample." in name for name in arrays)
    if projects != any(".downsample." in name for name in shapes):
        return f"; try --shortcut {'B' if projects else 'A'}"
    if classes and "fc.weight" in shapes and classes != shapes["fc.weight"][:1]:
        return f"; try --num-classes {classes[0]}"
    kernel = arrays["conv1.weight"].shape[2:] if "conv1.weight" in arrays else ()
    if kernel == (7, 7) and shapes["conv1.weight"][2:] != kernel:
        return "; it has the 7x7 stem for ImageNet: try --stem imagenet"
    return ""
