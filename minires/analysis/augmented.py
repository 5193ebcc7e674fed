"""What the augmentation of a training makes of one image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from minires.backend import CPU, to_host
from minires.data import Dataset, compute_normalization
from minires.training.config import TrainConfig
from minires.training.setup import make_train_loader

PARTNERS = 64
"""Images of the batch that mixup and cutmix take partners from."""


@dataclass(frozen=True)
class Variants:
    """What came of one image: uint8 (N, 3, H, W), and a caption for each, empty but for mixes."""

    name: str
    images: np.ndarray
    captions: tuple[str, ...]


PLAIN = {"crop_padding": 0, "flip": False, "color_jitter": 0.0, "cutout": 0, "mixup": 0.0,
         "cutmix": 0.0}  # fmt: skip
SHOWN = {
    "crop and flip": {"crop_padding": 4, "flip": True},
    "color jitter 0.3": {"color_jitter": 0.3},
    "cutout 12": {"cutout": 12},
    "mixup 1": {"mixup": 1.0},
    "cutmix 1": {"cutmix": 1.0},
}
"""Each kind alone, strong enough to be seen."""


def variants(config: TrainConfig, dataset: Dataset, index: int, count: int, name: str) -> Variants:
    """Image `index` of `dataset` as the loader of `config` gives it in `count` epochs.

    The image stands first in a batch with those that follow it, for kinds that mix images.
    """
    indices = (index + np.arange(min(PARTNERS, len(dataset)))) % len(dataset)
    norm = compute_normalization(dataset.images)
    config = replace(config, batch_size=len(indices))
    loader = make_train_loader(config, dataset, indices, CPU, norm)
    loader.shuffle = False
    images, captions = [], []
    for epoch in range(count):
        x, labels = next(loader.epoch(epoch))
        mean, std = (np.reshape(v, (3, 1, 1)) for v in (norm.mean, norm.std))
        pixels = 255 * (to_host(x)[0] * std + mean)
        images.append(np.clip(pixels.round(), 0, 255).astype(np.uint8))
        captions.append(_shares(labels[0], dataset.class_names) if labels.ndim == 2 else "")
    return Variants(name, np.stack(images), tuple(captions))


def each_kind(config: TrainConfig, dataset: Dataset, index: int, count: int) -> list[Variants]:
    """`variants` of each kind of augmentation alone."""
    plain = replace(config, augment=True, mix_share=1.0, **PLAIN)
    return [
        variants(replace(plain, **chosen), dataset, index, count, name)
        for name, chosen in SHOWN.items()
    ]


def _shares(shares: np.ndarray, names: tuple[str, ...]) -> str:
    """For example "70% cat\n30% dog"."""
    order = np.argsort(-shares, kind="stable")[:2]
    return "\n".join(f"{shares[k]:.0%} {names[k]}" for k in order if shares[k] >= 0.005)
