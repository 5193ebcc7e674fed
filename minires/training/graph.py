"""A training step as one graph: what changes from step to step stands in the device's memory.

Before each step one launch writes the rate, the momentum, the decay of the average, the numbers of
the step and of the epoch and the indices of the batch's images to fixed places. All else, from the
making of the batch to the update, is the same in every step, so a GPU captures it once and replays
it: see `kernels.cuda.graph`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minires.backend import Array, Device, cuda_module, to_device
from minires.training.step import TrainingStep


class GraphedStep:
    """Takes the steps of `work` on batches of one shape; `totals` are those of `count_batch`.

    `make_batch(indices, epoch)` gives x and labels of images `indices`, int64 (B,), in `epoch`, a
    0-d int64 array, out of launches alone: see `Loader.batch`.
    """

    def __init__(
        self,
        work: TrainingStep,
        device: Device,
        totals: Array,
        say: Callable[[str], None],
        make_batch: Callable[[Array, Array], tuple[Array, Array]],
    ) -> None:
        self.work, self.totals, self.make_batch = work, totals, make_batch
        optimizer = work.optimizer
        self._factors = optimizer.lr_factors
        numbers = len(self._factors) + 2
        self._numbers = to_device(np.zeros(numbers, np.float32), device)
        self._counts = to_device(np.zeros(2, np.int64), device)
        self._count, self._epoch = (self._counts[i : i + 1].reshape(()) for i in range(2))
        self._rates = self._numbers[: numbers - 2]
        self._momentum = self._numbers[numbers - 2 : numbers - 1].reshape(())
        self._decay = self._numbers[numbers - 1 :].reshape(())
        self._has_momentum = False
        self._indices: Array | None = None
        self._counters = [b.data for n, b in work.model.named_buffers() if b.data.ndim == 0]
        optimizer.count_on_device(device)
        graph = cuda_module("graph").Graph
        self._graph = graph(self._step, self._read_host, self._write_host, say)

    def fits(self, indices: Array) -> bool:
        """Whether this batch has the size of those before."""
        return self._indices is None or self._indices.shape == indices.shape

    def run(
        self, indices: Array, epoch: int, step: int, lr: float, momentum: Any, decay: Any
    ) -> None:
        """Step number `step` (from 0) on images `indices`, int64 (B,), as they are in `epoch`.

        momentum and decay are None where there is none.
        """
        if self._indices is None:
            self._indices, self._has_momentum = indices.copy(), momentum is not None
        rates = [lr * factor for factor in self._factors]
        numbers = [*rates, momentum or 0.0, decay or 0.0]
        cuda_module("step").set_numbers(
            self._numbers, numbers, self._counts, (step, epoch), self._indices, indices
        )
        self._graph()

    def _step(self) -> None:
        # A batch of another size may have gone by itself, with a number of its own and a check
        # that reads the loss: a graph must hold neither.
        self.work.model.set_step(self._count)
        self.work.check = None
        x, labels = self.make_batch(self._indices, self._epoch)
        self.work.run(
            x,
            labels,
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
