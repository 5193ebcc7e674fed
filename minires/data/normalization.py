"""The mean and standard deviation of each colour channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minires.errors import DataError

_CHUNK = 1_000


@dataclass(frozen=True)
class Normalization:
    """x = (pixel / 255 - mean) / std, with one mean and one std for red, green and blue."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def compute_normalization(images: np.ndarray) -> Normalization:
    """The normalisation that gives `images` mean 0 and variance 1 in each channel.

    images: uint8 (N, 3, H, W). Counts how often each of the 256 values occurs, so the sums are
    exact and do not depend on the order. Raises `DataError` if a channel has one value only.
    """
    counts = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        for channel in range(3):
            counts[channel] += np.bincount(chunk[:, channel].ravel(), minlength=256)
    values = np.arange(256)
    number = max(int(counts[0].sum()), 1)
    mean = [int(row @ values) / number for row in counts]
    std = [
        (sum(int(n) * (v - m) ** 2 for v, n in enumerate(row)) / number) ** 0.5
        for row, m in zip(counts, mean, strict=True)
    ]
    if min(std) == 0:
        raise DataError("a colour channel has the same value in all training images")
    return Normalization(tuple(m / 255 for m in mean), tuple(s / 255 for s in std))
