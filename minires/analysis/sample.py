"""The images that a picture looks at: of a data set, by number, or files of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minires.analysis.image_files import read_image
from minires.backend import Array, to_host
from minires.data import Dataset
from minires.errors import DataError, UsageError
from minires.training.trained import Trained

SIDE = 32


@dataclass(frozen=True)
class Sample:
    """Images uint8 (N, 3, 32, 32), a caption for each, and x float32, normalised, for the network.

    The captions are the classes, or the names of files.
    """

    images: np.ndarray
    captions: tuple[str, ...]
    x: Array


def sample_of(trained: Trained, split: str, wanted: Sequence[str]) -> Sample:
    """The images that `wanted` names: numbers within `split`, or files.

    Nothing wanted: the first image of each class, for ten classes at most. Raises `UsageError` for
    a number or a file that there is not, and what `Trained.images` does.
    """
    found: list[tuple[np.ndarray, str]] = []
    numbers = [int(text) for text in wanted if text.isdecimal()]
    if numbers or not wanted:
        dataset, indices = trained.images(split)
        images, labels = to_host(dataset.images)[indices], to_host(dataset.labels)[indices]
        if not wanted:
            wanted = [str(n) for n in first_of_each_class(labels)]
    for text in wanted:
        if not text.isdecimal():
            found.append((_file(text), Path(text).name))
        elif int(text) >= len(images):
            raise UsageError(f"--image {text}: the {split} set has images 0 to {len(images) - 1}")
        else:
            found.append((images[int(text)], dataset.class_names[labels[int(text)]]))
    pixels = np.stack([image for image, _ in found])
    return Sample(pixels, tuple(caption for _, caption in found), normalized(trained, pixels))


def normalized(trained: Trained, pixels: np.ndarray) -> Array:
    """uint8 (N, 3, H, W) as the network of `trained` expects it: float32 on its device."""
    labels = np.zeros(len(pixels), dtype=np.int64)  # nothing looks at them
    dataset = Dataset("images", pixels, labels, trained.class_names)
    ((x, _),) = trained.loader(dataset, np.arange(len(pixels)), len(pixels)).epoch(0)
    return x


def first_of_each_class(labels: np.ndarray, most: int = 10) -> list[int]:
    """The place of the first image of each of the first `most` classes."""
    classes, places = np.unique(labels, return_index=True)
    return places[np.argsort(classes)][:most].tolist()


def _file(text: str) -> np.ndarray:
    try:
        return read_image(Path(text), SIDE)
    except DataError as error:
        raise DataError(f"--image {text}: {error}") from error
