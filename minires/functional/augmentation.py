"""From stored images to a batch that a network can read: gather, crop, flip, normalise.

A training image is padded on all sides and a window of the original size is cut out at a random
place; half of the images are mirrored. The padding has the mean colour, so that it is zero (within
half a step of 256) once normalised, as in the paper, which subtracts the mean first. Images stay
uint8 until the last step.

Source: He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition", section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minires.backend import Array, array_module, operation
from minires.functional.random import AUGMENT, integers, random_bits


def normalization_table(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(value / 255 - mean) / std for each channel and each of the 256 values, float32 (C, 256).

    Computed in float64 and rounded once, so every device gives the same bits.
    """
    mean, std = np.asarray(mean)[:, None], np.asarray(std)[:, None]
    return ((np.arange(256) / 255 - mean) / std).astype(np.float32)


@operation
def draw_augmentation(
    seed: int, epoch: int | Array, indices: Array, padding: int, flip: bool
) -> tuple[Array, Array]:
    """The crop and the flip of images `indices` in `epoch`, a function of these numbers alone.

    epoch: a number, or a 0-d int64 array; indices: int64 (B,). Returns (offsets int64 (B, 2), each
    0 to 2 * padding: where the window starts in the padded image, down and right; flips bool (B,),
    all False without `flip`).
    """
    xp = array_module(indices)
    down, right, mirror = (random_bits(seed, AUGMENT, epoch, indices, draw) for draw in range(3))
    offsets = xp.stack([integers(down, 0, 2 * padding), integers(right, 0, 2 * padding)], axis=1)
    flips = (mirror >> np.uint64(63)).astype(bool) & flip
    return offsets, flips


@operation
def augment_batch(
    images: Array,
    indices: Array,
    table: Array,
    offsets: Array | None = None,
    flips: Array | None = None,
    padding: int = 0,
) -> Array:
    """x[b, c, i, j] = table[c, padded[b, c, i + down, j' + right]], j' = W-1-j if flipped, else j.

    images: uint8 (N, C, H, W); indices: int64 (B,), the images of the batch; table: float32
    (C, 256), see `normalization_table`; offsets: int64 (B, 2), down and right, where the window
    starts in the image with `padding` pixels of the mean colour (`mean_color`) on each side, None
    for no crop; flips: bool (B,), None for no flip. Returns float32 (B, C, H, W).
    """
    xp = array_module(images)
    batch = images[indices]
    if offsets is not None and padding:
        batch = _crop(batch, offsets, padding, mean_color(table))
    if flips is not None:
        batch = xp.where(flips[:, None, None, None], batch[..., ::-1], batch)
    x = xp.empty(batch.shape, dtype=table.dtype)
    for channel in range(batch.shape[1]):
        x[:, channel] = xp.take(table[channel], batch[:, channel])
    return x


@operation
def take_labels(labels: Array, indices: Array) -> Array:
    """The labels of the images `indices`: labels int64 (N,), indices int64 (B,); int64 (B,)."""
    return labels[indices]


def mean_color(table: Array) -> Array:
    """The stored value of each channel that `table` (C, 256) turns into the number nearest to 0.

    Returns uint8 (C,).
    """
    return abs(table).argmin(axis=1).astype(np.uint8)


def _crop(batch: Array, offsets: Array, padding: int, fill: Array) -> Array:
    """The window of the original size that starts at `offsets` in each padded image."""
    xp = array_module(batch)
    B, C, H, W = batch.shape
    padded = xp.empty((B, C, H + 2 * padding, W + 2 * padding), dtype=batch.dtype)
    padded[...] = fill[:, None, None]
    padded[:, :, padding : padding + H, padding : padding + W] = batch
    windows = xp.lib.stride_tricks.sliding_window_view(padded, (H, W), axis=(2, 3))
    return windows[xp.arange(B), :, offsets[:, 0], offsets[:, 1]]
