"""Further changes of a normalised training batch: colour jitter and cutout.

A batch has mean 0 and standard deviation 1 in each channel, so 0 is the mean colour of the data.
The draws are functions of (seed, epoch, image index) alone, as those of the crop and the flip.
"""

from __future__ import annotations

import numpy as np

from minires.backend import Array, array_module, operation
from minires.functional.random import AUGMENT, integers, random_bits, uniform

CUTOUT_DRAWS, JITTER_DRAWS = (3, 4), (5, 6)
"""Numbers of the draws in the stream AUGMENT; 0 to 2 are the crop and the flip."""


@operation
def draw_jitter(seed: int, epoch: int, indices: Array, strength: float) -> tuple[Array, Array]:
    """The colour jitter of images `indices`, int64 (B,), in `epoch`.

    Returns (contrast, evenly from [1 - strength, 1 + strength); brightness, from [-strength,
    strength), a share of the range from black to white), both float32 (B,).
    """
    contrast, brightness = (
        (2 * uniform(random_bits(seed, AUGMENT, epoch, indices, draw)) - 1) * np.float32(strength)
        for draw in JITTER_DRAWS
    )
    return contrast + np.float32(1), brightness


@operation
def color_jitter(x: Array, contrast: Array, brightness: Array, white: Array) -> Array:
    """y[b, c] = contrast[b] * x[b, c] + brightness[b] * white[c].

    x: (B, C, H, W), normalised, so the contrast changes about the mean colour; contrast,
    brightness: (B,); white: (C,), the distance from black to white in each channel, 1 / std.
    Values are not clipped. Source: Howard 2013, "Some improvements on deep convolutional neural
    network based image classification", section 2.2.
    """
    y = x * contrast[:, None, None, None]
    y += (brightness[:, None] * white)[:, :, None, None]
    return y.astype(x.dtype, copy=False)


@operation
def draw_cutout(seed: int, epoch: int, indices: Array, height: int, width: int) -> Array:
    """The pixel at the centre of each image's hole in `epoch`: int64 (B, 2), row and column."""
    xp = array_module(indices)
    row, column = (random_bits(seed, AUGMENT, epoch, indices, draw) for draw in CUTOUT_DRAWS)
    return xp.stack([integers(row, 0, height - 1), integers(column, 0, width - 1)], axis=1)


@operation
def cutout(x: Array, centers: Array, size: int) -> Array:
    """x with a square of side `size` at `centers` set to 0, the mean colour.

    x: float32 (B, C, H, W); centers: int64 (B, 2), row and column. The square covers the `size`
    rows from row - size // 2 on, and columns likewise; what lies outside of the image is lost.
    Source: DeVries and Taylor 2017, "Improved regularization of convolutional neural networks with
    cutout", section 3.2.
    """
    start = centers - size // 2
    inside = box_mask(start[:, 0], start[:, 0] + size, start[:, 1], start[:, 1] + size, x)
    return x * (~inside).astype(x.dtype)[:, None]


def box_mask(top: Array, bottom: Array, left: Array, right: Array, x: Array) -> Array:
    """Whether each pixel lies in its image's box: bool (B, H, W); ends are not included."""
    xp = array_module(x)
    rows, columns = xp.arange(x.shape[2]), xp.arange(x.shape[3])
    in_rows = (rows >= top[:, None]) & (rows < bottom[:, None])  # (B, H)
    in_columns = (columns >= left[:, None]) & (columns < right[:, None])  # (B, W)
    return in_rows[:, :, None] & in_columns[:, None]
