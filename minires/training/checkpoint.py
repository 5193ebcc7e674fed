"""Checkpoints: one safetensors file each, with all that a training or an evaluation needs.

In the file are the weights (`model.<name>`, PyTorch's names and shapes), the optimizer's slots
(`optimizer.<name>`), and one JSON text, `minires`, in the metadata for everything else. Numbers in
it come back bit for bit: JSON writes the shortest text that reads as the same float.
"""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import minires
from minires.atomic import PARTIAL
from minires.backend import CPU, Device
from minires.errors import CheckpointError, UsageError
from minires.models import build
from minires.nn import Module
from minires.optim.averaging import averaged_state
from minires.training.tensor_file import read_tensors, write_tensors

FORMAT_VERSION = 1
"""Counts up whenever an older minires could not read the file."""

METADATA_KEY = "minires"
WHICH = ("best", "last")


@dataclass(frozen=True)
class Checkpoint:
    """A training at one moment.

    `model` and `optimizer` are state dicts of host arrays. `spec` rebuilds the model
    (`models.build(**spec)`); `config` is the training's, as a dict. `step` counts the updates done,
    `batch` those of them in epoch number `epoch` (from 0); `running` holds what that epoch has
    summed up so far. `mean` and `std` (3 floats each, for pixels scaled to 0..1) are the
    normalisation that the weights expect. `metrics` are the last evaluation's. `extra` is the
    caller's own. Everything but the arrays is made of JSON's types.
    """

    model: Mapping[str, np.ndarray]
    spec: Mapping[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    optimizer: Mapping[str, np.ndarray] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0
    epoch: int = 0
    batch: int = 0
    running: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    data_fingerprint: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


_JSON_TYPES = {
    "spec": dict, "mean": list, "std": list, "class_names": list, "config": dict, "step": int,
    "epoch": int, "batch": int, "running": dict, "metrics": dict, "data_fingerprint": str,
    "extra": dict, "versions": dict,
}  # fmt: skip
"""What JSON makes of each field that is no array."""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path`, so that a kill at any moment leaves the old or the new file.

    The folder must exist. Partial files that a killed process left there are removed. Raises
    `CheckpointError` (full disk, read-only folder): then an earlier file is intact.
    """
    path = Path(path)
    _remove_partial_files(path.parent)
    checkpoint = replace(checkpoint, versions=checkpoint.versions or current_versions())
    meta = {name: getattr(checkpoint, name) for name in _JSON_TYPES}
    text = json.dumps({"format_version": FORMAT_VERSION, **meta}, default=_plain)
    tensors = {f"model.{name}": array for name, array in checkpoint.model.items()}
    tensors |= {f"optimizer.{name}": array for name, array in checkpoint.optimizer.items()}
    write_tensors(path, tensors, {METADATA_KEY: text})


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and check the checkpoint `path`.

    Raises `CheckpointError` for a file that is missing, truncated, foreign or of a later format.
    Whether the weights fit a model is checked where they are loaded into one.
    """
    tensors, metadata = read_tensors(path)
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path}: no minires checkpoint, only weights; make a run of it with the import command"
        )
    meta = _check_metadata(path, metadata[METADATA_KEY])
    groups: dict[str, dict[str, np.ndarray]] = {"model": {}, "optimizer": {}}
    for name, array in tensors.items():
        group, _, rest = name.partition(".")
        if group not in groups or not rest:
            raise CheckpointError(f"{path}: {name!r} does not belong in a minires checkpoint")
        groups[group][rest] = array
    values = {name: meta[name] for name in _JSON_TYPES}
    for name in ("mean", "std", "class_names"):
        values[name] = tuple(values[name])
    return Checkpoint(**groups, **values)


def restore_model(checkpoint: Checkpoint, path: Path, device: Device = CPU) -> Module:
    """The model of `checkpoint` with its weights, on `device`; `path` is named in errors.

    Where the training kept an average of the weights, the model gets the average.
    Raises `CheckpointError` if the file describes no model or its weights do not fit it.
    """
    try:
        model = build(**checkpoint.spec, device=device)
    except (TypeError, UsageError) as error:
        raise CheckpointError(f"{path}: describes no model of this minires ({error})") from error
    try:
        model.load_state_dict(averaged_state(checkpoint.model, checkpoint.optimizer))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model


def find_checkpoint(run: Path, which: str | None = None) -> Path:
    """The checkpoint `which` ("best" or "last") in the folder `run`; None: best, else last.

    `run` may also be a checkpoint file itself. Raises `CheckpointError` if there is none.
    """
    run = Path(run)
    if run.is_file():
        return run
    names = [which] if which else list(WHICH)
    for name in names:
        if (run / f"{name}.safetensors").is_file():
            return run / f"{name}.safetensors"
    if not run.exists():
        raise CheckpointError(f"{run}: no such run folder")
    others = [w for w in WHICH if (run / f"{w}.safetensors").is_file()]
    hint = f"; there is {others[0]}.safetensors" if others else "; is it a run folder?"
    raise CheckpointError(f"{run}: holds no {' or '.join(names)}.safetensors{hint}")


def current_versions() -> dict[str, str]:
    """The versions that a file is written with."""
    return {
        "minires": minires.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _check_metadata(path: Path, text: str) -> dict[str, Any]:
    """The metadata as a dict in which every field of `_JSON_TYPES` has its type."""
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata is damaged ({error})") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("format_version"), int):
        raise CheckpointError(f"{path}: its metadata is damaged (no format version)")
    if meta["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: written by a later minires (format {meta['format_version']}, this one reads "
            f"{FORMAT_VERSION}); update minires"
        )
    for name, kind in _JSON_TYPES.items():
        if not isinstance(meta.get(name), kind) or isinstance(meta[name], bool):
            raise CheckpointError(f"{path}: its metadata is damaged ({name} is no {kind.__name__})")
    for name in ("mean", "std"):
        good = all(isinstance(v, int | float) and not isinstance(v, bool) for v in meta[name])
        if not good or len(meta[name]) != 3:
            raise CheckpointError(f"{path}: its metadata is damaged ({name} is not 3 numbers)")
    if not all(isinstance(name, str) for name in meta["class_names"]):
        raise CheckpointError(f"{path}: its metadata is damaged (class_names are not all text)")
    return meta


def _plain(value: Any) -> Any:
    """JSON's idea of NumPy numbers, and of paths in a config."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a checkpoint's metadata")


def _remove_partial_files(folder: Path) -> None:
    """Remove what an earlier process, killed while saving, may have left in `folder`."""
    with contextlib.suppress(OSError):  # a folder that cannot be read shows when it is written
        for partial in folder.glob(f".*.safetensors.*{PARTIAL}"):
            partial.unlink(missing_ok=True)
