"""Data sets by name: find their files, read them, and tell one from another."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minires.backend import Array, Device, to_device
from minires.data.cifar import LAYOUTS, SHAPES, Layout, read_split
from minires.data.shapes import CLASSES, draw_shapes
from minires.errors import DataError, UsageError
from minires.spelling import nearest

DATASETS = tuple(LAYOUTS)
SPLITS = ("train", "test")
DEFAULT_FOLDER = Path("data")


@dataclass(frozen=True)
class Dataset:
    """Images uint8 (N, 3, 32, 32), labels int64 (N,), and the name of each class."""

    name: str
    images: Array
    labels: Array
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: Device) -> Dataset:
        """The same data set with its arrays on `device`; arrays that are there are not copied."""
        images, labels = to_device(self.images, device), to_device(self.labels, device)
        return replace(self, images=images, labels=labels)


def load_dataset(name: str, split: str, data_dir: str | Path | None = None) -> Dataset:
    """Read the "train" or "test" images of "cifar10", "cifar100" or "shapes".

    `shapes` is drawn on the spot unless its files are in the data folder. Raises `DataError` for
    files that are missing or damaged, `UsageError` for a name or split that does not exist.
    """
    layout = _layout(name)
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}{nearest(split, SPLITS)}")
    folder = _search(layout, data_dir)
    if folder is None and layout is SHAPES:
        images, labels = draw_shapes(split)
        return Dataset(name, images, labels, tuple(CLASSES))
    images, labels, class_names = read_split(folder or find_data(name, data_dir), layout, split)
    return Dataset(name, images, labels, class_names)


def number_of_classes(name: str) -> int:
    """The number of classes of the data set `name`, whose files need not be there."""
    return _layout(name).classes


def data_folder(data_dir: str | Path | None = None) -> Path:
    """The folder for data: `data_dir`, else the variable MINIRES_DATA, else ./data."""
    return Path(data_dir or os.environ.get("MINIRES_DATA") or DEFAULT_FOLDER)


def find_data(name: str, data_dir: str | Path | None = None) -> Path:
    """The folder that holds the files of data set `name`.

    The data folder may be the one that holds `cifar-10-batches-py`, or that folder itself. Raises
    `DataError` if neither has any of the files, and tells what to do.
    """
    layout = _layout(name)
    folder = _search(layout, data_dir)
    if folder is None:
        raise DataError(
            f"{name}: no {layout.folder} in {data_folder(data_dir)}; fetch it with: "
            f"python cli.py download --dataset {name}, or name the folder that holds it with "
            "--data-dir or MINIRES_DATA"
        )
    return folder


def fingerprint(*datasets: Dataset) -> str:
    """SHA-256, in hexadecimal, of the names, shapes, pixels and labels of `datasets`."""
    digest = hashlib.sha256()
    for dataset in datasets:
        images = np.ascontiguousarray(dataset.images)
        labels = np.ascontiguousarray(dataset.labels, dtype="<i8")
        header = (dataset.name, dataset.class_names, images.shape, images.dtype.str)
        digest.update(repr(header).encode())
        digest.update(images)
        digest.update(labels)
    return digest.hexdigest()


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise UsageError(f"no data set {name!r}{nearest(name, LAYOUTS)}")
    return LAYOUTS[name]


def _search(layout: Layout, data_dir: str | Path | None) -> Path | None:
    """The folder with at least one file of `layout`: as a sub-folder first, then itself."""
    base = data_folder(data_dir)
    inside = base / layout.folder
    if any((inside / name).exists() for name in layout.all_files):
        return inside
    # a folder of another name may hold CIFAR files, but `shapes` shares its file names with them
    itself = base.name == layout.folder if layout is SHAPES else base.name != SHAPES.folder
    return base if itself and any((base / name).exists() for name in layout.all_files) else None
