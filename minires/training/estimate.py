"""How long a training will take and how much memory it needs, before its first epoch.

A throwaway copy of the model makes a few steps on black images with two small batches. What a step
costs is a fixed part plus a part for each image, so two measurements give the line, and the line
gives the real batch. On the CPU, tracemalloc sees every array that NumPy allocates.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minires.backend import (
    Device,
    activation_dtype,
    forget_scratch_peak,
    scratch_peak_bytes,
    synchronize,
    to_device,
)
from minires.nn import CrossEntropyLoss
from minires.training.config import TrainConfig
from minires.training.setup import (
    TrainingData,
    make_average,
    make_model,
    make_optimizer,
    make_scaler,
)
from minires.training.step import TrainingStep

WARM_UP, SMALL, LARGE = 3, 7, 27
"""The batches of the probe: odd, because kernels keep buffers by size, and a batch that is 4 times
another would find its buffers there and seem to need no memory."""

EVALUATION_SHARE = 0.4
"""What an image costs in evaluation, as a share of what it costs in training."""


@dataclass(frozen=True)
class Estimate:
    """`seconds` of the steps and validations still to do; `peak_bytes`, None where unknown."""

    seconds: float
    peak_bytes: int | None

    def exceeds_memory(self) -> bool:
        """Whether more is needed than this machine has free now."""
        free = free_memory()
        if self.peak_bytes is None or free is None:
            return False
        return self.peak_bytes - memory_in_use() > free


def estimate(config: TrainConfig, data: TrainingData, device: Device, steps: int) -> Estimate:
    """Predict `steps` more steps of the training that `config` describes."""
    probe = _Probe(config, data.num_classes, device)
    probe.step(WARM_UP)  # the first step compiles kernels
    large = min(LARGE, config.batch_size)
    sizes = {min(SMALL, large), large}
    peak_bytes = None
    if device.kind == "cpu":
        used = memory_in_use()
        peaks = {size: probe.peak_bytes(size) for size in sorted(sizes)}
        peak_bytes = used + round(_extrapolate(peaks, config.batch_size))
    times = {size: probe.seconds(size) for size in sorted(sizes)}
    per_step = max(_extrapolate(times, config.batch_size), times[large])
    validated = len(data.val_indices) / len(data.train_indices) * EVALUATION_SHARE
    return Estimate(steps * per_step * (1 + validated), peak_bytes)


def memory_in_use() -> int:
    """Bytes that this process holds now, data and libraries included; 0 where unknown."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def free_memory() -> int | None:
    """Bytes of memory that this machine can give now; None where that is not known."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


class _Probe:
    """A model that is thrown away, and what a step of it costs."""

    def __init__(self, config: TrainConfig, num_classes: int, device: Device) -> None:
        self.config = config
        self.num_classes = num_classes
        self.device = device
        self.work: TrainingStep | None = self._make()

    def _make(self) -> TrainingStep:
        model = make_model(self.config, self.num_classes, self.device)
        loss = CrossEntropyLoss(self.config.label_smoothing)
        optimizer = make_optimizer(self.config, model)
        average = make_average(self.config, model, optimizer)
        return TrainingStep(model, loss, optimizer, make_scaler(self.config, self.device), average)

    def step(self, batch: int) -> None:
        """One update from `batch` black images, with a rate of zero."""
        images = np.zeros((batch, 3, 32, 32), activation_dtype(self.device))
        x = to_device(images, self.device)
        labels = to_device(np.arange(batch) % self.num_classes, self.device)
        self.work.forward_backward(x, labels)
        self.work.update(0.0, decay=self.config.ema)
        synchronize(self.device)

    def seconds(self, batch: int) -> float:
        """The shorter of two steps."""
        times = []
        for _ in range(2):
            start = time.perf_counter()
            self.step(batch)
            times.append(time.perf_counter() - start)
        return min(times)

    def peak_bytes(self, batch: int) -> int:
        """The most memory in use at once while a model is made and makes two steps."""
        already = tracemalloc.is_tracing()
        self.work = None
        forget_scratch_peak(self.device)
        scratch = scratch_peak_bytes(self.device)
        tracemalloc.start()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            self.work = self._make()
            self.step(batch)
            self.step(batch)
            traced = tracemalloc.get_traced_memory()[1] - before
            return traced + scratch_peak_bytes(self.device) - scratch
        finally:
            if not already:
                tracemalloc.stop()


def _extrapolate(values: dict[int, float], at: int) -> float:
    """The line through two measurements (or a proportion through one), at `at`."""
    (small, low), (large, high) = min(values.items()), max(values.items())
    if small == large:
        return low * at / small
    slope = max(high - low, 0.0) / (large - small)
    return high + slope * (at - large)
