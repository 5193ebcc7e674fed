"""The measurement of a run's weights, from its folder or a checkpoint file alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minires.backend import select_device
from minires.data import Dataset, Normalization, fingerprint, load_dataset, split_validation
from minires.errors import CheckpointError, UsageError
from minires.training.checkpoint import (
    WHICH,
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    restore_model,
)
from minires.training.config import TrainConfig
from minires.training.evaluate import evaluate
from minires.training.setup import limited, make_eval_loader


@dataclass(frozen=True)
class Measurement:
    """Accuracy (0 to 1), mean loss, and a record for each class."""

    accuracy: float
    loss: float
    images: int
    correct: int
    per_class: list[dict]
    split: str
    dataset: str
    checkpoint: str
    tta: bool

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def measure(
    run: Path,
    checkpoint: str | None = None,
    split: str = "test",
    dataset: str | None = None,
    data_dir: str | None = None,
    batch_size: int = 250,
    device: str = "auto",
    threads: int | None = None,
    tta: bool | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Measure the weights of `run` (a folder or a checkpoint file) on one split of its data.

    checkpoint: "best", "last" or a file; None: best, else last. split: "test", "train" or "val";
    the last two are the images that the run trained on and held out. tta: take the mean over each
    image and its mirror; None: as the run does. The images are normalised
    as the weights expect. Raises `CheckpointError`, `DataError`, `UsageError`.
    """
    path = _choose(run, checkpoint)
    saved = load_checkpoint(path)
    place = select_device(device, threads)
    config = TrainConfig.from_dict(saved.config, str(path)) if saved.config else TrainConfig()
    if dataset is not None and dataset != config.dataset:
        config = replace(config, dataset=dataset, limit=0)
    if data_dir is not None:
        config = replace(config, data_dir=data_dir)
    config = replace(config, eval_batch_size=batch_size)
    images, indices = _images(config, saved, split, path)
    _check_classes(saved, images, path)

    model = restore_model(saved, path, place)
    normalization = Normalization(tuple(saved.mean), tuple(saved.std))
    loader = make_eval_loader(config, images, indices, place, normalization)
    tta = config.tta if tta is None else tta
    result = evaluate(model, loader, len(images.class_names), on_batch, tta)
    return Measurement(
        accuracy=result.accuracy,
        loss=result.loss,
        images=result.images,
        correct=int(result.correct.sum()),
        per_class=result.per_class(images.class_names),
        split=split,
        dataset=images.name,
        checkpoint=str(path),
        tta=tta,
    )


def _choose(run: Path, checkpoint: str | None) -> Path:
    """The checkpoint file that the user means."""
    if checkpoint is None or checkpoint in WHICH:
        return find_checkpoint(run, checkpoint)
    for path in (Path(checkpoint), run / checkpoint):
        if path.is_file():
            return path
    raise CheckpointError(f"--checkpoint {checkpoint}: no such file; use best, last or a file")


def _images(
    config: TrainConfig, saved: Checkpoint, split: str, path: Path
) -> tuple[Dataset, np.ndarray]:
    """The data set to measure on, and the indices of the split in it."""
    test = limited(load_dataset(config.dataset, "test", config.data_dir), config.limit)
    if split == "test":
        return test, np.arange(len(test))
    if not saved.data_fingerprint:
        raise UsageError(f"--split {split}: {path} does not know its training images; use test")
    train = limited(load_dataset(config.dataset, "train", config.data_dir), config.limit)
    if fingerprint(train, test) != saved.data_fingerprint:
        raise UsageError(
            f"--split {split}: {path} was trained on other images than those of {config.dataset} "
            "here; use test"
        )
    trained, held_out = split_validation(train.labels, config.val_split, config.seed)
    if split == "val" and not len(held_out):
        raise UsageError(f"--split val: {path} was trained with --val-split 0")
    return train, held_out if split == "val" else trained


def _check_classes(saved: Checkpoint, images: Dataset, path: Path) -> None:
    classes = saved.spec.get("num_classes", len(images.class_names))
    if classes != len(images.class_names):
        raise CheckpointError(
            f"{path}: has {classes} classes, but {images.name} has {len(images.class_names)}; "
            "choose another --dataset"
        )
