"""A first convolution that whitens: its outputs are uncorrelated on the training images.

Neighbouring pixels and colours tell much the same, so a random first layer spends most of its
outputs on brightness. The eigenvectors of the covariance of all small patches are the directions
that have nothing to do with each other; divided by the deviation along each, they all count alike.

Source: Page 2018, "How to train your ResNet"; Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a
single GPU", section 3.2, which adds the negative of each filter for the ReLU that follows.
"""

from __future__ import annotations

import numpy as np

from minires.backend import array_module
from minires.data import Normalization
from minires.models.network import Network

IMAGES = 2_000
"""So many of the training images give the covariance."""

EPS = 5e-4
"""Added to each variance, so that directions of little more than noise do not swell."""

_CHUNK = 100


def whiten_first_conv(
    model: Network, images: np.ndarray, indices: np.ndarray, normalization: Normalization
) -> None:
    """Set the filters of the first convolution, as many as there are, to `whitening_filters`.

    images: uint8 (N, 3, H, W); `indices` are those to train on. More filters than the patches have
    directions keep their values.
    """
    weight = model.first_conv.weight.data
    chosen = indices[:: max(1, len(indices) // IMAGES)][:IMAGES]
    filters = whitening_filters(images[chosen], normalization, weight.shape[-1])
    count = min(len(filters), len(weight))
    weight[:count] = array_module(weight).asarray(filters[:count], dtype=weight.dtype)


def whitening_filters(images: np.ndarray, normalization: Normalization, size: int) -> np.ndarray:
    """Filters w_j = +-v_j / sqrt(s_j + eps), where s_j, v_j diagonalise the patches' covariance.

    images: uint8 (N, 3, H, W), normalised here. Returns float32 (2 D, 3, size, size) with
    D = 3 size^2 directions, those of the largest variance first, each followed by its negative.
    """
    first, second, patches = 0.0, 0.0, 0
    mean = np.array(normalization.mean, np.float32)[:, None, None]
    std = np.array(normalization.std, np.float32)[:, None, None]
    for start in range(0, len(images), _CHUNK):
        x = (images[start : start + _CHUNK] / np.float32(255) - mean) / std
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
        rows = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 3 * size * size)
        first = first + rows.sum(axis=0, dtype=np.float64)
        second = second + (rows.T @ rows).astype(np.float64)
        patches += len(rows)
    center = first / patches
    variances, vectors = np.linalg.eigh(second / patches - np.outer(center, center))
    filters = (vectors / np.sqrt(np.maximum(variances, 0) + EPS)).T[::-1]
    largest = np.take_along_axis(filters, np.abs(filters).argmax(axis=1)[:, None], axis=1)
    filters = filters * np.sign(largest)  # an eigenvector's sign is the library's whim
    both = np.stack([filters, -filters], axis=1)
    return both.reshape(-1, 3, size, size).astype(np.float32)
