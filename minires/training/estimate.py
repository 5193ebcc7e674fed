"""How long a training will take and how much memory it needs, before its first epoch.

A throwaway copy of the model makes a few steps on black images with two small batches. What a step
costs is a fixed part plus a part for each image, so two measurements give the line, and the line
gives the real batch; processes that share a batch are timed with 32 images each. On the CPU,
tracemalloc sees every array that NumPy allocates; on a GPU, the arrays come from a memory pool of
the probe's own.
"""

from __future__ import annotations

import gc
import os
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minires.backend import (
    Device,
    activation_dtype,
    cuda_module,
    forget_scratch_peak,
    scratch_peak_bytes,
    synchronize,
    to_device,
)
from minires.errors import DeviceError
from minires.nn import CrossEntropyLoss
from minires.training.config import TrainConfig
from minires.training.data_parallel import LEAST_IMAGES, DataParallel
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
    """`seconds` of the steps and validations still to do; `peak_bytes`, None where unknown.

    `gpu_free_bytes` is what a GPU had free before; `largest_batch` how many images would fit there.
    """

    seconds: float
    peak_bytes: int | None
    gpu_free_bytes: int | None = None
    largest_batch: int | None = None

    @property
    def free_bytes(self) -> int | None:
        """What the device that trains has free; None where that is not known."""
        return free_memory() if self.gpu_free_bytes is None else self.gpu_free_bytes

    def hint(self, batch_size: int) -> str:
        """What to do where a batch does not fit."""
        if self.largest_batch is None or self.largest_batch >= batch_size:
            return "use a smaller --batch-size, or a smaller network"
        return f"about --batch-size {self.largest_batch} would fit"

    def exceeds_memory(self) -> bool:
        """Whether more is needed than this device has free now."""
        if self.gpu_free_bytes is not None and self.peak_bytes is not None:
            return self.peak_bytes > self.gpu_free_bytes
        free = free_memory()
        if self.peak_bytes is None or free is None:
            return False
        return self.peak_bytes - memory_in_use() > free


def estimate(config: TrainConfig, data: TrainingData, device: Device, steps: int) -> Estimate:
    """Predict `steps` more steps of the training that `config` describes."""
    free = None
    if device.kind == "gpu":
        free = cuda_module("runtime").current().free_bytes()
    probe = _Probe(config, data.num_classes, device)
    probe.step(WARM_UP)  # the first step compiles kernels
    large = min(LARGE, config.batch_size)
    sizes = {min(SMALL, large), large}
    used = memory_in_use() if device.kind == "cpu" else 0
    peaks = {size: probe.peak_bytes(size) for size in sorted(sizes)}
    peak_bytes = used + round(_extrapolate(peaks, config.batch_size))
    largest = None if free is None else largest_batch(peaks, free)
    per_step = probe.seconds_per_step(sorted(sizes))
    validated = len(data.val_indices) / len(data.train_indices) * EVALUATION_SHARE
    return Estimate(steps * per_step * (1 + validated), peak_bytes, free, largest)


def out_of_memory(guess: Estimate | None, batch_size: int, device: Device) -> DeviceError:
    """The error of a training that does not fit, in one line."""
    hint = (guess or Estimate(0.0, None)).hint(batch_size)
    return DeviceError(f"--batch-size {batch_size}: the memory of {device} is not enough; {hint}")


def largest_batch(peaks: dict[int, float], free: int) -> int | None:
    """The largest batch of which the line through `peaks` (batch: bytes) stays below `free`.

    None where one measurement gives no line, or not even one image fits.
    """
    (small, low), (large, high) = min(peaks.items()), max(peaks.items())
    if high <= low:
        return None
    fitting = int(small + (free - low) * (large - small) // (high - low))
    return fitting if fitting > 0 else None


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
        network = DataParallel(model, self.config.batch_size)
        scaler = make_scaler(self.config, self.device)
        return TrainingStep(network, loss, optimizer, scaler, average)

    def step(self, batch: int) -> None:
        """One update from `batch` black images, with a rate of zero."""
        images = np.zeros((batch, 3, 32, 32), activation_dtype(self.device))
        x = to_device(images, self.device)
        labels = to_device(np.arange(batch) % self.num_classes, self.device)
        self.work.forward_backward(x, labels)
        self.work.update(0.0, decay=self.config.ema)
        synchronize(self.device)

    def seconds_per_step(self, sizes: Sequence[int]) -> float:
        """What a step of the real batch takes, from some of `sizes`.

        Processes that share a batch are timed with as few images as they share.
        """
        batch, processes = self.config.batch_size, self.work.model.processes
        if processes == 1:
            times = {size: self.seconds(size) for size in sizes}
            return max(_extrapolate(times, batch), times[max(sizes)])
        fewest = processes * LEAST_IMAGES
        self.step(fewest)
        try:
            return self.seconds(fewest) * batch / fewest
        finally:
            self.work.model.close()

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
        if self.device.kind == "gpu":
            return self._pool_bytes(batch)
        already = tracemalloc.is_tracing()
        self.work = None
        gc.collect()  # scratch that garbage holds would be freed, and used, within the two steps
        forget_scratch_peak(self.device)
        scratch = scratch_peak_bytes(self.device)
        tracemalloc.start()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            self.work = self._make()
            making = tracemalloc.get_traced_memory()[1] - before
            tracemalloc.reset_peak()
            self.step(batch)
            self.step(batch)
            traced = tracemalloc.get_traced_memory()[1] - before
            stepping = traced + scratch_peak_bytes(self.device) - scratch
            return max(making, stepping) + self._shared_bytes()
        finally:
            if not already:
                tracemalloc.stop()

    def _shared_bytes(self) -> int:
        """The weights and their gradients, which lie where tracemalloc does not look."""
        groups = self.work.optimizer.groups
        return sum(group.weights.nbytes + group.grads.nbytes for group in groups)

    def _pool_bytes(self, batch: int) -> int:
        """What a GPU's memory pool has had to ask for, for a model and two steps."""
        self.work = None
        runtime = cuda_module("runtime").current()
        pool = runtime.new_memory()
        with runtime.memory(pool):
            self.work = self._make()
            self.step(batch)
            self.step(batch)
            self.work = None
        asked_for = pool.total_bytes()
        self.work = self._make()
        return asked_for


def _extrapolate(values: dict[int, float], at: int) -> float:
    """The line through two measurements (or a proportion through one), at `at`."""
    (small, low), (large, high) = min(values.items()), max(values.items())
    if small == large:
        return low * at / small
    slope = max(high - low, 0.0) / (large - small)
    return high + slope * (at - large)
