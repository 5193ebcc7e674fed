"""Batches that processes share, networks for them, and a look at the processes there are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from minires import devices
from minires.models import build
from minires.optim import SGD
from minires.training.data_parallel import LEAST_IMAGES

IN_TWO_PROCESSES = [
    pytest.mark.skipif(not devices.can_fork(), reason="a process that computes cannot be forked"),
    pytest.mark.usefixtures("two_processes"),
]
"""The marks of tests in which two processes share a batch; the fixture is in tests/training."""

BATCH = 2 * LEAST_IMAGES + 3  # shares of unequal size


def children():
    """The processes that this one has forked and not yet buried."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def batch(seed=0, size=BATCH):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((size, 3, 32, 32), dtype=np.float32)
    return images, rng.integers(0, 10, size)


def make(name="resnet8", **more):
    model = build(name, **{"width": 0.5, "seed": 1, **more})
    return model, SGD(model.trainable_parameters(), momentum=0.9)


class Batches:
    batch_size = BATCH

    def __len__(self):
        return 2

    def epoch(self, number, start_batch=0):
        return iter([batch(0), batch(1, 7)])
