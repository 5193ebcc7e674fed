"""Trained weights with all that they need: the network, the images, the normalisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minires.backend import Device
from minires.data import (
    Dataset,
    Loader,
    Normalization,
    fingerprint,
    load_dataset,
    split_validation,
)
from minires.devices import select_device
from minires.errors import CheckpointError, UsageError
from minires.models.network import Network
from minires.spelling import printable
from minires.training.checkpoint import (
    WHICH,
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    restore_model,
)
from minires.training.config import TrainConfig
from minires.training.setup import limited, make_eval_loader


@dataclass(frozen=True)
class Trained:
    """The weights in the file `path`, the config of their training, and where they are to run."""

    path: Path
    checkpoint: Checkpoint
    config: TrainConfig
    device: Device

    @property
    def normalization(self) -> Normalization:
        """The normalisation that the weights expect."""
        return Normalization(tuple(self.checkpoint.mean), tuple(self.checkpoint.std))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; their numbers where the file names none."""
        number = self.checkpoint.spec.get("num_classes", 0)
        return self.checkpoint.class_names or tuple(map(str, range(number)))

    @property
    def title(self) -> str:
        """A few words for a heading: run, model and data set."""
        name = self.path.absolute().parent.name if self.path.stem in WHICH else self.path.stem
        plain = "plain " if self.config.plain else ""
        return f"{printable(name)}: {plain}{self.config.model} on {self.config.dataset}"

    def model(self) -> Network:
        """A new network with the weights, on the device."""
        return restore_model(self.checkpoint, self.path, self.device)

    def images(self, split: str) -> tuple[Dataset, np.ndarray]:
        """A data set, and the indices of the images of `split` in it, int64.

        split: "test", or "train" and "val", the images that were trained on and held out. Raises
        `DataError`, `CheckpointError` where the classes are others, and `UsageError` where the
        training images are not known.
        """
        config, saved = self.config, self.checkpoint
        test = limited(load_dataset(config.dataset, "test", config.data_dir), config.limit)
        self._check_classes(test)
        if split == "test":
            return test, np.arange(len(test))
        if not saved.data_fingerprint:
            raise UsageError(
                f"--split {split}: {self.path} does not know its training images; use test"
            )
        train = limited(load_dataset(config.dataset, "train", config.data_dir), config.limit)
        if fingerprint(train, test) != saved.data_fingerprint:
            raise UsageError(
                f"--split {split}: {self.path} was trained on other images than those of "
                f"{config.dataset} here; use test"
            )
        trained, held_out = split_validation(train.labels, config.val_split, config.seed)
        if split == "val" and not len(held_out):
            raise UsageError(f"--split val: {self.path} was trained with --val-split 0")
        return train, held_out if split == "val" else trained

    def loader(self, images: Dataset, indices: np.ndarray, batch_size: int = 250) -> Loader:
        """Plain batches of `images`, normalised as the weights expect."""
        config = replace(self.config, eval_batch_size=batch_size)
        return make_eval_loader(config, images, indices, self.device, self.normalization)

    def _check_classes(self, images: Dataset) -> None:
        classes = self.checkpoint.spec.get("num_classes", len(images.class_names))
        if classes != len(images.class_names):
            raise CheckpointError(
                f"{self.path}: has {classes} classes, but {images.name} has "
                f"{len(images.class_names)}; choose another --dataset"
            )


def open_trained(
    run: Path,
    checkpoint: str | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Trained:
    """The weights of `run`, a folder or a checkpoint file.

    checkpoint: "best", "last" or a file; None: best, else last. dataset and data_dir win over what
    the run was trained with. Raises `CheckpointError` and `DeviceError`.
    """
    path = _choose(run, checkpoint)
    saved = load_checkpoint(path)
    place = select_device(device, threads)
    config = TrainConfig.from_dict(saved.config, str(path)) if saved.config else TrainConfig()
    if dataset is not None and dataset != config.dataset:
        config = replace(config, dataset=dataset, limit=0)
    if data_dir is not None:
        config = replace(config, data_dir=data_dir)
    return Trained(path, saved, config, place)


def _choose(run: Path, checkpoint: str | None) -> Path:
    """The checkpoint file that the user means."""
    if checkpoint is None or checkpoint in WHICH:
        return find_checkpoint(run, checkpoint)
    for path in (Path(checkpoint), run / checkpoint):
        if path.is_file():
            return path
    raise CheckpointError(f"--checkpoint {checkpoint}: no such file; use best, last or a file")
