"""From a config to the parts of a training: data, loaders, model, optimizer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from minires.backend import Device
from minires.data import (
    AugmentConfig,
    Dataset,
    Loader,
    Normalization,
    compute_normalization,
    fingerprint,
    load_dataset,
    number_of_classes,
    split_validation,
)
from minires.errors import UsageError
from minires.models import build
from minires.models.freezing import freeze
from minires.models.network import Network
from minires.models.registry import family_of
from minires.nn import Module
from minires.optim import SGD, make_schedule
from minires.optim.schedules import Schedule
from minires.training.config import TrainConfig


@dataclass(frozen=True)
class TrainingData:
    """The images of a training: `train` is split by two sorted index arrays, int64.

    `normalization` is computed from the images that are trained on; `fingerprint` is a hash of all
    images and labels, so that a resumed run notices when they have changed.
    """

    train: Dataset
    test: Dataset
    train_indices: np.ndarray
    val_indices: np.ndarray
    normalization: Normalization
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.train.class_names)


def load_training_data(config: TrainConfig) -> TrainingData:
    """Read and split the data set of `config`; `DataError` if it is missing or damaged.

    The test set is read (not used) at once, so that a missing file shows before the training.
    """
    train = limited(load_dataset(config.dataset, "train", config.data_dir), config.limit)
    test = limited(load_dataset(config.dataset, "test", config.data_dir), config.limit)
    train_indices, val_indices = split_validation(train.labels, config.val_split, config.seed)
    if len(train_indices) < config.batch_size:
        raise UsageError(
            f"--batch-size {config.batch_size}: only {len(train_indices)} images to train on"
        )
    normalization = compute_normalization(train.images[train_indices])
    return TrainingData(
        train, test, train_indices, val_indices, normalization, fingerprint(train, test)
    )


def limited(dataset: Dataset, limit: int) -> Dataset:
    """The first `limit` images of `dataset`; all of them for 0."""
    if not limit or limit >= len(dataset.labels):
        return dataset
    return replace(dataset, images=dataset.images[:limit], labels=dataset.labels[:limit])


def make_train_loader(
    config: TrainConfig,
    dataset: Dataset,
    indices: np.ndarray,
    device: Device,
    normalization: Normalization,
) -> Loader:
    """Shuffled, augmented batches, all of the same size."""
    augment = AugmentConfig(config.crop_padding, config.flip) if config.augment else None
    return Loader(
        dataset,
        indices,
        config.batch_size,
        device=device,
        normalization=normalization,
        seed=config.seed,
        augment=augment,
        shuffle=True,
        drop_last=True,
    )


def make_eval_loader(
    config: TrainConfig,
    dataset: Dataset,
    indices: np.ndarray,
    device: Device,
    normalization: Normalization,
) -> Loader:
    """Plain batches in the order of `indices`."""
    batch_size = config.eval_batch_size or config.batch_size
    return Loader(dataset, indices, batch_size, device=device, normalization=normalization)


def check_model(config: TrainConfig) -> None:
    """Raise `UsageError` where `config` names no network, or one over its budget.

    Nothing but the config is needed for it, so it comes before the data are read.
    """
    family_of(config.model)
    if config.max_parameters:
        model = build(config.model, number_of_classes(config.dataset), **config.model_options)
        count = sum(p.size for _, p in model.named_parameters())
        if count > config.max_parameters:
            raise UsageError(
                f"--max-parameters {config.max_parameters}: {config.model} has {count:,} "
                "parameters with these options; try a smaller --width or fewer --blocks"
            )


def make_model(config: TrainConfig, num_classes: int, device: Device) -> Network:
    """The network of `config` on `device`, with its initial weights and its frozen parts."""
    model = build(config.model, num_classes, device=device, **config.model_options)
    if config.freeze:
        freeze(model, config.freeze, device)
    return model


def make_optimizer(config: TrainConfig, model: Module) -> SGD:
    """The optimizer of `config`; it takes over the memory of the model's parameters."""
    return SGD(
        model.trainable_parameters(),
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        decay_all=config.decay_all,
    )


def schedule_of(config: TrainConfig, total_steps: int) -> Schedule:
    """The learning rate as a function of the step."""
    warmup_steps = None if config.warmup is None else config.warmup * total_steps
    return make_schedule(
        config.schedule,
        config.lr,
        total_steps,
        warmup_steps=warmup_steps,
        milestones=config.milestones,
        gamma=config.gamma,
    )
