"""Data sets in CIFAR's format, small enough to be written for each test."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from minires.data.cifar import CIFAR10, CIFAR100, write_cifar10
from minires.data.pickle_writer import pickle_bytes

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IN_EACH_FILE = 20


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    """Tests find the data that they name, not the user's."""
    for variable in ("MINIRES_DATA", "MINIRES_DATA_DIR", "MINIRES_MIRRORS"):
        monkeypatch.delenv(variable, raising=False)


REAL_DATA = os.environ.get("MINIRES_DATA")


@pytest.fixture
def real_data() -> Path:
    """The folder of the real CIFAR-10; the test is skipped without it."""
    if not REAL_DATA:
        pytest.skip("needs the real CIFAR-10: set MINIRES_DATA to its folder")
    return Path(REAL_DATA)


def random_images(count: int, seed: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (count, 3, 32, 32) of noise and labels (count,) that go round the classes."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return images, np.arange(count) % classes


@pytest.fixture
def cifar10(tmp_path) -> Path:
    """A data folder with a CIFAR-10 of 100 and 20 images."""
    folder = tmp_path / "data" / CIFAR10.folder
    folder.mkdir(parents=True)
    write_cifar10(folder, random_images(5 * IN_EACH_FILE, 1), random_images(IN_EACH_FILE, 2), NAMES)
    return folder.parent


@pytest.fixture
def cifar100(tmp_path) -> Path:
    """A data folder with a CIFAR-100 of 200 and 100 images."""
    folder = tmp_path / "data" / CIFAR100.folder
    folder.mkdir(parents=True)
    for name, count in (("train", 200), ("test", 100)):
        images, labels = random_images(count, count, 100)
        entries = {
            "filenames": [f"{n}.png" for n in range(count)],
            "batch_label": f"{name}ing batch 1 of 1",
            "fine_labels": labels.tolist(),
            "coarse_labels": (labels // 5).tolist(),
            "data": images.reshape(count, -1),
        }
        (folder / name).write_bytes(pickle_bytes(entries))
    meta = {
        "fine_label_names": [f"fine {n}" for n in range(100)],
        "coarse_label_names": [f"coarse {n}" for n in range(20)],
    }
    (folder / "meta").write_bytes(pickle_bytes(meta))
    return folder.parent
