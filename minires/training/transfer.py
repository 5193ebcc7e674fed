"""The commands `import` and `export`: between a run folder and a file of weights."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minires.errors import CheckpointError, UsageError
from minires.models import build
from minires.training.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    restore_model,
    save_checkpoint,
)
from minires.training.run import RunFolder
from minires.training.weights import (
    CIFAR10_CLASSES,
    CIFAR10_MEAN,
    CIFAR10_STD,
    Weights,
    export_weights,
    import_weights,
    noted_triple,
)


def import_run(
    weights: Path,
    output: Path,
    model: str,
    num_classes: int = 10,
    dataset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Make the run folder `output` with a `best` checkpoint of the file `weights`.

    options: those of `models.build`, such as `width`.
    mean, std: the normalisation that the weights expect (3 floats each, for pixels scaled to
    0..1); None: what the file notes, else CIFAR-10's. Returns what the command reports. Raises
    `CheckpointError` if the file does not fit, `UsageError` if the folder holds a run already;
    then nothing has been written. There is no `last` checkpoint: imported weights have no optimizer
    state to resume from.
    """
    run = RunFolder(output)
    if run.exists():
        raise UsageError(f"--output {output}: holds a run already; choose another folder")
    network = build(model, num_classes, **options)
    read = import_weights(network, weights)
    mean, mean_from = _choose(mean, read, "mean", CIFAR10_MEAN)
    std, std_from = _choose(std, read, "std", CIFAR10_STD)
    dataset = dataset or ("cifar100" if num_classes == 100 else "cifar10")
    checkpoint = Checkpoint(
        model=network.state_dict(),
        spec=network.spec,
        mean=mean,
        std=std,
        class_names=_class_names(read, num_classes, dataset),
        config={"dataset": dataset, "model": model, **options},
        extra={"imported_from": str(weights)},
    )
    _save_in_new_folder(run, checkpoint)
    return {
        "run": str(output),
        "checkpoint": str(run.best),
        "model": model,
        "num_classes": num_classes,
        "parameters": sum(p.size for _, p in network.named_parameters()),
        "tensors": len(read.arrays),
        "mean": list(mean),
        "std": list(std),
        "normalization_from": mean_from if mean_from == std_from else f"{mean_from}; {std_from}",
    }


def export_run(run: Path, output: Path, which: str | None = None) -> dict[str, Any]:
    """Write the weights of `run` (a folder or a checkpoint file) to the file `output`.

    which: "best" or "last"; None: best, else last. Returns what the command reports. Raises
    `CheckpointError` if there is no such checkpoint or the file cannot be written.
    """
    path = find_checkpoint(run, which)
    checkpoint = load_checkpoint(path)
    if output.exists() and output.samefile(path):
        raise UsageError(f"--output {output}: is the checkpoint itself; choose another file")
    network = restore_model(checkpoint, path)
    note = {
        "model": dict(checkpoint.spec),
        "mean": list(checkpoint.mean),
        "std": list(checkpoint.std),
        "class_names": list(checkpoint.class_names),
    }
    export_weights(output, network.state_dict(), note)
    return {
        "output": str(output),
        "checkpoint": str(path),
        "model": network.spec["name"],
        "parameters": sum(p.size for _, p in network.named_parameters()),
        "tensors": len(network.state_dict()),
        "mean": list(checkpoint.mean),
        "std": list(checkpoint.std),
    }


def _choose(
    given: Sequence[float] | None, read: Weights, name: str, default: tuple[float, ...]
) -> tuple[tuple[float, ...], str]:
    """The normalisation constant `name` and where it comes from."""
    if given is not None:
        return tuple(given), f"--{name}"
    noted = noted_triple(read.note, name)
    if noted is not None:
        return noted, "noted in the file"
    return default, "CIFAR-10's, as nothing else was given"


def _class_names(read: Weights, num_classes: int, dataset: str) -> tuple[str, ...]:
    """The names that the file notes or that the data set has; empty if neither is known."""
    noted = read.note.get("class_names")
    texts = isinstance(noted, list) and all(isinstance(name, str) for name in noted)
    if texts and len(noted) == num_classes:
        return tuple(noted)
    return CIFAR10_CLASSES if dataset == "cifar10" and num_classes == 10 else ()


def _save_in_new_folder(run: RunFolder, checkpoint: Checkpoint) -> None:
    """Make the folder and write the checkpoint; a folder made in vain is removed."""
    existed = run.path.exists()
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"--output {run.path}: cannot be made ({error.strerror})") from error
    try:
        save_checkpoint(run.best, checkpoint)
    except CheckpointError:
        if not existed:
            with contextlib.suppress(OSError):
                run.path.rmdir()
        raise
