"""Hold out a part of the training images for validation, the same share of each class."""

from __future__ import annotations

import math

import numpy as np

from minires.errors import UsageError
from minires.functional.random import SPLIT, random_bits


def split_validation(
    labels: np.ndarray, val_split: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose at random which images to train on and which to validate on.

    labels: int64 (N,); val_split: below 1 a share of the images, from 1 on their number, 0 for
    none. Each class gives in proportion to its size, rounded so that the total is exact. Returns
    two sorted int64 arrays of indices (train, validation) that together are 0..N-1. Raises
    `UsageError` if nothing would be left to train on.
    """
    count = validation_count(len(labels), val_split)
    held_out = np.zeros(len(labels), dtype=bool)
    keys = random_bits(seed, SPLIT, np.arange(len(labels)))
    classes, sizes = np.unique(labels, return_counts=True)
    for label, share in zip(classes, _shares(sizes, count), strict=True):
        members = np.flatnonzero(labels == label)
        held_out[members[np.argsort(keys[members], kind="stable")[:share]]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def validation_count(images: int, val_split: float) -> int:
    """How many of `images` are held out; `UsageError` if that cannot be."""
    if not math.isfinite(val_split) or val_split < 0:
        raise UsageError(f"--val-split {val_split}: use 0, a share below 1, or a number of images")
    if val_split >= 1 and val_split != int(val_split):
        raise UsageError(f"--val-split {val_split}: from 1 on, it is a whole number of images")
    count = round(val_split * images) if val_split < 1 else int(val_split)
    if count and count >= images:
        raise UsageError(f"--val-split {val_split}: leaves none of {images:,} images to train on")
    return count


def _shares(sizes: np.ndarray, count: int) -> np.ndarray:
    """Whole numbers near count * sizes / sum(sizes) that add up to `count`.

    Rounds down, then gives what is left to the largest remainders (Hamilton's method).
    """
    total = int(sizes.sum())
    shares, remainders = np.divmod(sizes * count, max(total, 1))
    left = count - int(shares.sum())
    shares[np.argsort(-remainders, kind="stable")[:left]] += 1
    return shares
