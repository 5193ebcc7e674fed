"""What the data path costs: loading, cropping, flipping and normalising, beside a training step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minires.backend import Device, synchronize
from minires.data import AugmentConfig, Dataset, Loader, compute_normalization

IMAGES = 50_000
"""As many as CIFAR-10's training set: 154 MB, so the gathers miss the cache as they really do."""

ROUNDS = 5


def random_dataset(images: int = IMAGES, seed: int = 0) -> Dataset:
    """Noise in the shape of CIFAR-10: what is on the pictures does not matter to the clock."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (images, 3, 32, 32), dtype=np.uint8)
    labels = random.integers(0, 10, images)
    return Dataset("noise", pixels, labels, tuple(str(digit) for digit in range(10)))


def data_path(
    batch_size: int,
    device: Device,
    train_seconds_per_image: float,
    say: Callable[[str], None],
    images: int = IMAGES,
) -> dict[str, Any]:
    """The time per image of an augmented, shuffled epoch, and its share of a training epoch.

    `share_of_epoch` = data / (data + training), where training is `train_seconds_per_image`.
    """
    dataset = random_dataset(images)
    loader = Loader(
        dataset,
        np.arange(images),
        batch_size,
        device=device,
        normalization=compute_normalization(dataset.images[:1000]),
        augment=AugmentConfig(),
        shuffle=True,
        drop_last=True,
    )
    seconds = []
    for epoch in range(ROUNDS + 1):
        say(f"data path: epoch {epoch + 1}/{ROUNDS + 1}")
        start = time.perf_counter()
        for _ in loader.epoch(epoch):
            pass
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    per_image = statistics.median(seconds[1:]) / loader.images_per_epoch
    return {
        "images_per_second": 1 / per_image,
        "seconds_per_image": per_image,
        "train_seconds_per_image": train_seconds_per_image,
        "share_of_epoch": per_image / (per_image + train_seconds_per_image),
    }
