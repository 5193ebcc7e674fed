"""The raw files of CIFAR-10 and CIFAR-100: where they lie, what they hold, and whether it is right.

A batch file is a pickled dictionary. `data` is uint8 (images, 3072): each row one image, the red
plane, then green, then blue, each in rows of 32 pixels. The labels are a list of as many integers.
A second, small file names the classes.

Source: A. Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images";
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from minires.atomic import write_atomically
from minires.data.pickle_reader import parse_pickle, read_pickle
from minires.data.pickle_writer import pickle_bytes
from minires.errors import DataError

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """The files of a data set in CIFAR's format and the names of the entries in them.

    `count_key` names the entry of `meta_file` with the number of images in each batch file, where
    there is one.
    """

    name: str
    folder: str
    files: dict[str, tuple[str, ...]]
    meta_file: str
    label_key: str
    names_key: str
    count_key: str | None
    classes: int

    @property
    def all_files(self) -> tuple[str, ...]:
        """Every file, the one with the class names first."""
        return (self.meta_file, *self.files["train"], *self.files["test"])


CIFAR10 = Layout(
    name="cifar10",
    folder="cifar-10-batches-py",
    files={
        "train": tuple(f"data_batch_{n}" for n in range(1, 6)),
        "test": ("test_batch",),
    },
    meta_file="batches.meta",
    label_key="labels",
    names_key="label_names",
    count_key="num_cases_per_batch",
    classes=10,
)
CIFAR100 = Layout(
    name="cifar100",
    folder="cifar-100-python",
    files={"train": ("train",), "test": ("test",)},
    meta_file="meta",
    label_key="fine_labels",
    names_key="fine_label_names",
    count_key=None,
    classes=100,
)
SHAPES = replace(CIFAR10, name="shapes", folder="shapes-batches-py")

LAYOUTS = {layout.name: layout for layout in (CIFAR10, CIFAR100, SHAPES)}


def read_split(
    folder: Path, layout: Layout, split: str
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """All batches of "train" or "test" in `folder`.

    Returns (images uint8 (N, 3, 32, 32), labels int64 (N,), class names). Raises `DataError` with
    the name of the file that is missing, damaged or not what it claims to be, and what to do.
    """
    try:
        meta = folder / layout.meta_file
        class_names, count = check_meta(read_pickle(meta), layout, meta)
        paths = [folder / name for name in layout.files[split]]
        batches = [check_batch(read_pickle(path), layout, path, count) for path in paths]
    except DataError as error:
        fix = f"python cli.py download --dataset {layout.name}"
        raise DataError(f"{error}; get a fresh copy with: {fix}") from error
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    return images, labels, class_names


def check_file(content: bytes, layout: Layout, name: str, source: str) -> None:
    """Raise `DataError` unless `content` is a sound file called `name` of this layout."""
    entries = parse_pickle(content, source)
    if name == layout.meta_file:
        check_meta(entries, layout, source)
    else:
        check_batch(entries, layout, source)


def check_meta(
    entries: dict[str, Any], layout: Layout, source: str | Path
) -> tuple[tuple[str, ...], int | None]:
    """(class names, images in each batch file or None) of a read meta file."""
    names = entries.get(layout.names_key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        _refuse(source, f"the list {layout.names_key!r} is missing")
    if len(names) != layout.classes:
        _refuse(source, f"{len(names)} class names instead of {layout.classes}")
    count = None
    if layout.count_key is not None:
        count = entries.get(layout.count_key)
        if type(count) is not int or count < 1:
            _refuse(source, f"the number {layout.count_key!r} is missing")
    return tuple(names), count


def check_batch(
    entries: dict[str, Any], layout: Layout, source: str | Path, count: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 (N, 3, 32, 32), labels int64 (N,)) of a read batch file with `count` images."""
    data, labels = entries.get("data"), entries.get(layout.label_key)
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != PIXELS:
        _refuse(source, f"'data' is not an array of rows of {PIXELS} pixels")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        _refuse(source, f"the list {layout.label_key!r} is missing")
    if len(labels) != len(data):
        _refuse(source, f"{len(data):,} images but {len(labels):,} labels")
    if count is not None and len(data) != count:
        _refuse(source, f"{len(data):,} images instead of {count:,}, as {layout.meta_file} says")
    for place, label in enumerate(labels):
        if not 0 <= label < layout.classes:
            _refuse(source, f"label {label} of image {place} is not in 0..{layout.classes - 1}")
    images = np.ascontiguousarray(data).reshape(-1, 3, 32, 32)
    return images, np.array(labels, dtype=np.int64)


def write_cifar10_batch(
    path: Path,
    images: np.ndarray,
    labels: Sequence[int],
    *,
    batch_label: str = "training batch 1 of 1",
    filenames: Sequence[str] | None = None,
) -> None:
    """Write a batch file as CIFAR-10's are, whole or not at all; OSError if that fails.

    images: uint8 (N, 3, 32, 32); labels: N integers; filenames: N names, default image_000000.png…
    """
    if filenames is None:
        filenames = [f"image_{n:06d}.png" for n in range(len(images))]
    entries = {
        "batch_label": batch_label,
        "labels": [int(label) for label in labels],
        "data": np.ascontiguousarray(images).reshape(len(images), PIXELS),
        "filenames": list(filenames),
    }
    write_atomically(Path(path), pickle_bytes(entries))


def write_cifar10_meta(path: Path, class_names: Sequence[str], images_per_batch: int) -> None:
    """Write `batches.meta`: the class names and how many images each batch file holds."""
    entries = {
        "num_cases_per_batch": images_per_batch,
        "label_names": list(class_names),
        "num_vis": PIXELS,
    }
    write_atomically(Path(path), pickle_bytes(entries))


def write_cifar10(
    folder: Path,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    class_names: Sequence[str],
) -> None:
    """Write a data set of ten classes as the files of CIFAR-10.

    train and test: (images uint8 (N, 3, 32, 32), labels (N,)). As in CIFAR-10, every file holds as
    many images as the next, so the training set is five times as large as the test set.
    """
    count = len(test[1])
    if len(train[1]) != 5 * count:
        raise ValueError(f"{len(train[1])} training images are not five times {count}")
    write_cifar10_meta(folder / CIFAR10.meta_file, class_names, count)
    for n, name in enumerate(CIFAR10.files["train"]):
        images, labels = (part[n * count : (n + 1) * count] for part in train)
        label = f"training batch {n + 1} of 5"
        write_cifar10_batch(folder / name, images, labels, batch_label=label)
    write_cifar10_batch(folder / "test_batch", *test, batch_label="testing batch 1 of 1")


def _refuse(source: str | Path, reason: str) -> NoReturn:
    raise DataError(f"{source}: {reason}")
