"""Colour jitter, cutout, mixup and cutmix: the draws and the batch, see distortion.cu.

The epoch of a draw may be a 0-d int64 array on the device, for a captured graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.backend import Array, kernel
from minires.functional.mixing import TABLE_BITS, Mixing
from minires.functional.random import AUGMENT, random_bits
from minires.kernels.cuda.arrays import (
    THREADS,
    blocks_for,
    cuda_type,
    either,
    is_activation,
    logical,
    to_nhwc,
)
from minires.kernels.cuda.runtime import empty, launch


def _are(dtype: Any, *vectors: Array | None) -> bool:
    """Whether all arrays (None aside) have this dtype and lie in one piece."""
    return all(v is None or (v.dtype == dtype and v.flags.c_contiguous) for v in vectors)


def _draw(name: str, seed: int, epoch: int | Array, indices: Array, *arguments: Any) -> None:
    state = np.uint64(random_bits(seed, AUGMENT))
    launch("distortion", name, blocks_for(indices.size), (THREADS,), state,
           *either(epoch, np.int64), indices, *arguments)


def _change(name: str, x: Array, arrays: tuple[Array, ...], *sizes: int) -> Array:
    """Launch `name` for every value of x (B, C, H, W); a new batch, as logical (B, C, H, W)."""
    source = to_nhwc(x)
    y = empty(source.shape, x.dtype)
    launch("distortion", f"{name}<{cuda_type(x)}>", blocks_for(y.size), (THREADS,), source,
           *arrays, y, *sizes)
    return logical(y)


@kernel("draw_jitter", "gpu")
def draw_jitter(seed: int, epoch: int, indices: Array, strength: float):
    """`functional.distortion.draw_jitter`, the same numbers."""
    if not _are(np.int64, indices):
        return NotImplemented
    contrast, brightness = empty(indices.shape, np.float32), empty(indices.shape, np.float32)
    _draw("draw_jitter", seed, epoch, indices, contrast, brightness, indices.size, float(strength))
    return contrast, brightness


@kernel("draw_cutout", "gpu")
def draw_cutout(seed: int, epoch: int, indices: Array, height: int, width: int):
    """`functional.distortion.draw_cutout`, the same numbers."""
    if not _are(np.int64, indices):
        return NotImplemented
    centers = empty((indices.size, 2), np.int64)
    _draw("draw_cutout", seed, epoch, indices, centers, indices.size, height, width)
    return centers


@kernel("draw_mixing", "gpu")
def draw_mixing(seed, epoch, indices, mixup_table, cutmix_table, size, taken=1.0):
    """`functional.mixing.draw_mixing`, the same numbers."""
    tables = (mixup_table, cutmix_table)
    whole = all(table is None or table.size == 2**TABLE_BITS for table in tables)
    if not (_are(np.int64, indices) and _are(np.float32, *tables) and whole and indices.size):
        return NotImplemented
    count = indices.size
    partner, boxes = empty((count,), np.int64), empty((count, 4), np.int64)
    blend, share = empty((count,), np.float32), empty((count,), np.float32)
    _draw("draw_mixing", seed, epoch, indices, *tables, partner, blend, boxes, share, count, *size,
          float(taken))
    return Mixing(partner, blend, boxes, share)


@kernel("mixed_targets", "gpu")
def mixed_targets(labels: Array, mixing: Mixing, num_classes: int):
    """`functional.mixing.mixed_targets`."""
    if not (_are(np.int64, labels, mixing.partner) and _are(np.float32, mixing.share)):
        return NotImplemented
    targets = empty((labels.size, num_classes), np.float32)
    launch("distortion", "mixed_targets", blocks_for(targets.size), (THREADS,), labels,
           mixing.partner, mixing.share, targets, labels.size, num_classes)
    return targets


@kernel("color_jitter", "gpu")
def color_jitter(x: Array, contrast: Array, brightness: Array, white: Array):
    """`functional.distortion.color_jitter`."""
    if not is_activation(x) or not _are(np.float32, contrast, brightness, white):
        return NotImplemented
    n, c, h, w = x.shape
    return _change("color_jitter", x, (contrast, brightness, white), n, h * w, c)


@kernel("cutout", "gpu")
def cutout(x: Array, centers: Array, size: int):
    """`functional.distortion.cutout`."""
    if not is_activation(x) or not _are(np.int64, centers):
        return NotImplemented
    n, c, h, w = x.shape
    return _change("cutout", x, (centers,), n, h, w, c, size)


@kernel("take_images", "gpu")
def take_images(x: Array, places: Array):
    """`functional.mixing.take_images`."""
    if not is_activation(x) or not _are(np.int64, places) or places.shape != x.shape[:1]:
        return NotImplemented
    return _change("take_images", x, (places,), x.shape[0], x.size // x.shape[0])


@kernel("mixup", "gpu")
def mixup(x: Array, others: Array, blend: Array):
    """`functional.mixing.mixup`."""
    if not is_activation(x, others) or not _are(np.float32, blend):
        return NotImplemented
    return _change("mixup", x, (to_nhwc(others), blend), x.shape[0], x.size // x.shape[0])


@kernel("cutmix", "gpu")
def cutmix(x: Array, others: Array, boxes: Array):
    """`functional.mixing.cutmix`."""
    if not is_activation(x, others) or not _are(np.int64, boxes):
        return NotImplemented
    n, c, h, w = x.shape
    return _change("cutmix", x, (to_nhwc(others), boxes), n, h, w, c)
