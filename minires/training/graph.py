"""A training step as one graph: what changes from step to step stands in the device's memory.

Before each step one launch writes the rate, the momentum, the decay of the average and the number
of the step to fixed places, and the batch is copied to fixed arrays. All else is the same in every
step, so a GPU captures it once and replays it: see `kernels.cuda.graph`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minires.backend import Array, Device, cuda_module, to_device
from minires.training.step import TrainingStep


class GraphedStep:
    """Takes the steps of `work` on batches of one shape; `totals` are those of `count_batch`."""

    def __init__(
        self, work: TrainingStep, device: Device, totals: Array, say: Callable[[str], None]
    ) -> None:
        self.work, self.totals = work, totals
        optimizer = work.optimizer
        self._factors = optimizer.lr_factors
        numbers = len(self._factors) + 2
        self._numbers = to_device(np.zeros(numbers, np.float32), device)
        self._count = to_device(np.zeros((), np.int64), device)
        self._rates = self._numbers[: numbers - 2]
        self._momentum = self._numbers[numbers - 2 : numbers - 1].reshape(())
        self._decay = self._numbers[numbers - 1 :].reshape(())
        self._has_momentum = False
        self._x: Array | None = None
        self._labels: Array | None = None
        self._counters = [b.data for n, b in work.model.named_buffers() if b.data.ndim == 0]
        work.model.set_step(self._count)
        optimizer.count_on_device(device)
        graph = cuda_module("graph").Graph
        self._graph = graph(self._step, self._read_host, self._write_host, say)

    def fits(self, x: Array, labels: Array) -> bool:
        """Whether this batch has the shape of those before."""
        return self._x is None or (self._x.shape, self._labels.shape) == (x.shape, labels.shape)

    def run(self, x: Array, labels: Array, step: int, lr: float, momentum, decay) -> None:
        """Step number `step` (from 0); momentum and decay are None where there is none."""
        if self._x is None:
            self._x, self._labels = x.copy(order="K"), labels.copy()
            self._has_momentum = momentum is not None
        self._x[...], self._labels[...] = x, labels
        rates = [lr * factor for factor in self._factors]
        numbers = [*rates, momentum or 0.0, decay or 0.0]
        cuda_module("step").set_numbers(self._numbers, self._count, numbers, step)
        self._graph()

    def _step(self) -> None:
        self.work.run(
            self._x,
            self._labels,
            self._rates,
            self._momentum if self._has_momentum else None,
            self._decay,
            self.totals,
        )

    def _read_host(self) -> list[int]:
        return [int(counter) for counter in self._counters]

    def _write_host(self, values: list[int]) -> None:
        for counter, value in zip(self._counters, values, strict=True):
            counter[...] = value
