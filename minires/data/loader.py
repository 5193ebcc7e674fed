"""Batches of a data set: shuffled, augmented and normalised on the device that trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minires.backend import Array, Device, to_device
from minires.data.dataset import Dataset
from minires.data.normalization import Normalization
from minires.errors import UsageError
from minires.functional.augmentation import (
    augment_batch,
    draw_augmentation,
    normalization_table,
    take_labels,
)
from minires.functional.distortion import color_jitter, cutout, draw_cutout, draw_jitter
from minires.functional.mixing import (
    beta_table,
    cutmix,
    draw_mixing,
    mixed_targets,
    mixup,
    take_images,
)
from minires.functional.random import SHUFFLE, random_bits


@dataclass(frozen=True)
class AugmentConfig:
    """Pad by `crop_padding` pixels and crop at random; mirror half of the images if `flip`.

    `color_jitter` is a strength and `cutout` a side in pixels, see `functional.distortion`; `mixup`
    and `cutmix` are the alpha of each, and `mix_share` the share of images that they take, see
    `functional.mixing`. 0 switches a thing off.
    """

    crop_padding: int = 4
    flip: bool = True
    color_jitter: float = 0.0
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_share: float = 1.0

    @property
    def mixes(self) -> bool:
        """Whether labels become shares of the classes."""
        return bool(self.mixup or self.cutmix)


class Loader:
    """Batches of the images `indices` of `dataset`; `len` counts the batches of an epoch.

    The images are put on the device once. The order depends on (seed, epoch), the crop and the
    flip of an image on (seed, epoch, its index), and on nothing else: there is no state, and an
    epoch that starts in the middle gives the batches that it would have given.
    """

    def __init__(
        self,
        dataset: Dataset,
        indices: np.ndarray,
        batch_size: int,
        *,
        device: Device,
        normalization: Normalization,
        seed: int = 0,
        augment: AugmentConfig | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
    ) -> None:
        """Take `indices`, int64 (n,), in this order unless `shuffle`.

        `drop_last` leaves out the images that do not fill a last batch. Raises `UsageError` for a
        batch size below 1, no images, or an index that the data set does not have.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if batch_size < 1:
            raise UsageError(f"batch size {batch_size}: must be at least 1")
        if not len(indices) or indices.min() < 0 or indices.max() >= len(dataset):
            raise UsageError(f"{len(indices)} indices that do not fit {len(dataset)} images")
        self.dataset = dataset.to(device)
        self.indices = indices
        self.batch_size = batch_size
        self.device = device
        self.seed = seed
        self.augment = augment
        self.shuffle = shuffle
        whole = len(indices) // batch_size
        self.images_per_epoch = whole * batch_size if drop_last else len(indices)
        self._batches = whole if drop_last else -(-len(indices) // batch_size)
        table = normalization_table(normalization.mean, normalization.std)
        self._table = to_device(table, device)
        self._white = to_device(table[:, 255] - table[:, 0], device)
        self._mixup_table = self._cutmix_table = None
        if augment is not None and augment.mixup:
            self._mixup_table = to_device(beta_table(augment.mixup), device)
        if augment is not None and augment.cutmix:
            self._cutmix_table = to_device(beta_table(augment.cutmix), device)

    def __len__(self) -> int:
        return self._batches

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[tuple[Array, Array]]:
        """The batches of epoch number `epoch`, from batch `start_batch` on: see `batch`."""
        for indices in self.index_batches(epoch, start_batch):
            yield self.batch(indices, epoch)

    def index_batches(self, epoch: int, start_batch: int = 0) -> Iterator[Array]:
        """The images of each batch of `epoch`: indices int64 (B,) on the device."""
        order = to_device(self.order(epoch), self.device)
        for batch in range(start_batch, len(self)):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size]

    def batch(self, indices: Array, epoch: int | Array) -> tuple[Array, Array]:
        """The images `indices`, int64 (B,) on the device, as they are in `epoch`.

        Returns (x float32 (B, 3, 32, 32), labels int64 (B,)), both on the device; with mixup or
        cutmix, the labels are shares of the classes, float32 (B, K). On a GPU these are launches
        alone, and `epoch` may be a 0-d int64 array there, so that a graph can capture them.
        """
        x, labels = self._images(indices, epoch), take_labels(self.dataset.labels, indices)
        if self.augment is not None and self.augment.mixes:
            x, labels = self._mix(x, labels, indices, epoch)
        return x, labels

    def order(self, epoch: int) -> np.ndarray:
        """The indices of all images of an epoch, in the order of their use, int64."""
        indices = self.indices
        if self.shuffle:
            keys = random_bits(self.seed, SHUFFLE, epoch, indices)
            indices = indices[np.argsort(keys, kind="stable")]
        return indices[: self.images_per_epoch]

    def _images(self, indices: Array, epoch: int | Array) -> Array:
        if self.augment is None:
            return augment_batch(self.dataset.images, indices, self._table)
        padding, flip = self.augment.crop_padding, self.augment.flip
        offsets, flips = draw_augmentation(self.seed, epoch, indices, padding, flip)
        x = augment_batch(self.dataset.images, indices, self._table, offsets, flips, padding)
        if self.augment.color_jitter:
            drawn = draw_jitter(self.seed, epoch, indices, self.augment.color_jitter)
            x = color_jitter(x, *drawn, self._white)
        if self.augment.cutout:
            centers = draw_cutout(self.seed, epoch, indices, *x.shape[2:])
            x = cutout(x, centers, self.augment.cutout)
        return x

    def _mix(
        self, x: Array, labels: Array, indices: Array, epoch: int | Array
    ) -> tuple[Array, Array]:
        """Images with parts of their partners, and shares of the classes (B, K)."""
        mixing = draw_mixing(
            self.seed,
            epoch,
            indices,
            self._mixup_table,
            self._cutmix_table,
            x.shape[2:],
            self.augment.mix_share,
        )
        others = take_images(x, mixing.partner)
        if self._mixup_table is not None:
            x = mixup(x, others, mixing.blend)
        if self._cutmix_table is not None:
            x = cutmix(x, others, mixing.boxes)
        return x, mixed_targets(labels, mixing, len(self.dataset.class_names))
