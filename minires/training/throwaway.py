"""A training that is not kept: what `lr-find` and `sanity` try things on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from minires.backend import Array
from minires.devices import check_kernels, select_device
from minires.nn import CrossEntropyLoss, Module
from minires.training.config import TrainConfig
from minires.training.data_parallel import DataParallel
from minires.training.setup import (
    check_model,
    load_training_data,
    make_model,
    make_optimizer,
    make_scaler,
    make_train_loader,
)
from minires.training.step import TrainingStep
from minires.training.weights import load_pretrained
from minires.training.whitening import whiten_first_conv


class Throwaway:
    """The data of `config` and a fresh model with its optimizer; nothing is written anywhere.

    With `shared`, processes may share its batches (see `data_parallel`); then this process's model
    sees its own share of the images only. `close` it, or use it as a context.
    """

    def __init__(self, config: TrainConfig, shared: bool = False) -> None:
        check_model(config)
        self.config = config
        self.shared = shared
        self.network: Module | None = None
        self.device = select_device(config.device, config.threads, config.conv, config.precision)
        self.data = load_training_data(config)
        check_kernels(self.device, lambda line: print(line, file=sys.stderr))
        self.images = self.data.train.to(self.device)
        self.renew()

    def renew(self) -> None:
        """Start again with a fresh model."""
        self.close()
        config = self.config
        self.model = make_model(config, self.data.num_classes, self.device)
        if config.pretrained:
            loaded = load_pretrained(self.model, Path(config.pretrained))
            self.data = replace(self.data, normalization=loaded.normalization)
        if config.whiten:
            data = self.data
            whiten_first_conv(self.model, data.train.images, data.train_indices, data.normalization)
        self.optimizer = make_optimizer(config, self.model)
        self.network = self.model
        if self.shared:
            self.network = DataParallel(self.model, config.batch_size)
        self._step = TrainingStep(
            self.network,
            CrossEntropyLoss(config.label_smoothing),
            self.optimizer,
            make_scaler(config, self.device),
            clip_norm=config.clip_norm,
            clip_value=config.clip_value,
        )
        self.steps = 0

    def batches(self) -> Iterator[tuple[Array, Array]]:
        """Training batches without end, epoch after epoch."""
        data = self.data
        loader = make_train_loader(
            self.config, self.images, data.train_indices, self.device, data.normalization
        )
        epoch = 0
        while True:
            yield from loader.epoch(epoch)
            epoch += 1

    def forward_backward(self, x: Array, labels: Array) -> tuple[Array, Array]:
        """The loss, 0-d, and the logits of a batch; afterwards the gradients are there."""
        self.network.train()
        self.model.set_step(self.steps)
        return self._step.forward_backward(x, labels)

    def update(self, lr: float) -> None:
        """Clip as the config says, and make one update with the rate `lr`."""
        self._step.update(lr)
        self.steps += 1

    def close(self) -> None:
        """End the processes that shared the batches."""
        if isinstance(self.network, DataParallel):
            self.network.close()

    def __enter__(self) -> Throwaway:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
