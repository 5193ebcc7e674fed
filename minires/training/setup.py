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
from minires.nn import Module, Upsample
from minires.optim import OPTIMIZERS, LossScaler, Optimizer, WeightAverage, make_schedule
from minires.optim.schedules import Plateau, Schedule, cycle_momentum
from minires.training.config import TrainConfig


@dataclass(frozen=True)
class TrainingData:
    """The images of a training: `train` is split by two sorted index arrays, int64.

    `normalization` is computed from the images that are trained on, unless pretrained weights
    bring their own; `fingerprint` is a hash of all
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
            f"--batch-size {config.batch_size}: must be at most {len(train_indices)}, "
            "the number of images to train on"
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
    augment = AugmentConfig(
        config.crop_padding if config.augment else 0,
        config.flip and config.augment,
        config.color_jitter,
        config.cutout,
        config.mixup,
        config.cutmix,
        config.mix_share,
    )
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
    if config.whiten:
        _freeze_first_conv(model, device)
    return model


def _freeze_first_conv(model: Network, device: Device) -> None:
    """Keep the first convolution from being trained: its weights will be those that whiten."""
    weight = model.first_conv.weight
    if weight.shape[-1] != 3 or isinstance(model.parts[0], Upsample):
        name = model.spec["name"]
        raise UsageError(f"--whiten: the first layer of {name} is no 3x3 convolution of the images")
    freeze(model, next(n for n, p in model.named_parameters() if p is weight), device)


def make_optimizer(config: TrainConfig, model: Network) -> Optimizer:
    """The optimizer of `config`; it takes over the memory of the model's trained parameters."""
    shared = {
        "weight_decay": config.weight_decay,
        "decay_all": config.decay_all,
        "lr_factor": lambda name: 1.0 if model.in_head(name) else config.body_lr_factor,
    }
    parameters = model.trainable_parameters()
    kind = OPTIMIZERS[config.optimizer]
    if config.optimizer == "sgd":
        return kind(parameters, config.momentum, config.nesterov, **shared)
    if config.optimizer == "rmsprop":
        own = {"momentum": config.rms_momentum, "centered": config.rms_centered}
        return kind(parameters, config.rms_alpha, config.eps, **own, **shared)
    return kind(parameters, (config.beta1, config.beta2), config.eps, **shared)


def make_average(config: TrainConfig, model: Module, optimizer: Optimizer) -> WeightAverage | None:
    """The moving average of the weights; None where `config` asks for none."""
    return WeightAverage(model, optimizer, config.ema) if config.ema else None


def make_scaler(config: TrainConfig, device: Device) -> LossScaler | None:
    """The loss scale, which a training in float16 needs; None in any other precision."""
    return LossScaler(device) if config.precision == "fp16" else None


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
        cycle_shape=config.cycle_shape,
        cycles=config.cycles,
        cycle_growth=config.cycle_growth,
    )


def momentum_of(config: TrainConfig, total_steps: int) -> Schedule | None:
    """The momentum as a function of the step; None where it stays the optimizer's own."""
    if not config.cycle_momentum:
        return None
    warmup_steps = None if config.warmup is None else config.warmup * total_steps
    return cycle_momentum(total_steps, warmup_steps, config.cycle_shape)


def plateau_of(config: TrainConfig) -> Plateau | None:
    """The rule that lowers the rate when validation stands still, where the schedule is that."""
    if config.schedule != "plateau":
        return None
    return Plateau(config.gamma, config.plateau_patience)
