"""Data parallelism on the CPU: processes that each take some images of every batch.

Each process has the same network. Forward, it computes the logits of its own images; backward, the
gradients that its own images give, which it adds to those of the processes before it. Batch
norm's statistics stay those of the whole batch (`minires.processes`), so the mathematics is
that of one process, up to the order of sums. PyTorch calls the two halves of this
DistributedDataParallel and SyncBatchNorm.

The workers are forked when the first batch comes, and wait for orders: a forward pass, or
a backward pass. Weights, their gradients and running statistics lie in memory that all share, so
what the optimizer writes is everybody's. Workers ignore Ctrl-C and die with the process that forked
them.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import TracebackType

import numpy as np

from minires.backend import Array, kernels_in_use, options
from minires.nn import Module
from minires.training.workers import Workers

LEAST_IMAGES = 32
"""A process with fewer images of a batch would do more for the filters than for the images."""


def processes_for(module: Module, batch_size: int) -> int:
    """How many processes share a batch of `batch_size` images: 1 where that would not pay.

    Also 1 where the weights are not float32: the kernels know of other processes, the reference
    does not.
    """
    processes = options.processes
    if any(p.data.dtype != np.float32 for _, p in module.named_parameters()):
        return 1
    if processes is None:
        processes = options.threads
    return max(1, min(processes, batch_size // LEAST_IMAGES))


class DataParallel(Module):
    """`module`, computed by `processes_for` so many processes; by this one alone, if that is 1.

    It has the `forward` and `backward` of `module`, whose parameters' gradients are the sums over
    all images afterwards. What it does not see: a change of `module` after the first batch, except
    of weights that an optimizer holds (one that is made between two steps too), of buffers, and of
    the mode. Close it, or use it as a context. A worker that ends early raises `DeviceError`. In a
    Python thread that is not the main one, and on what the reference alone computes, such as
    float64, this process works alone.
    """

    def __init__(self, module: Module, batch_size: int) -> None:
        super().__init__()
        self.module = module
        self.training = module.training
        self.batch_size = batch_size
        self.processes = processes_for(module, batch_size)
        self._workers: Workers | None = None
        self._shared = False  # whether the workers took part in the last forward pass

    def forward(self, x: Array) -> Array:
        """The logits (N, K) of x (N, C, H, W)."""
        self._shared = self._worth_sharing(x) and self._ready(x)
        if not self._shared:
            return self.module(x)
        with self._closed_after_an_error():
            return self._workers.forward(x)

    def backward(self, grad_output: Array) -> None:
        """Fill the parameters' `.grad` from the logits' gradient (N, K)."""
        if not self._shared:
            self.module.backward(grad_output)
            return
        with self._closed_after_an_error():
            self._workers.backward(grad_output)

    def peak_bytes(self) -> int:
        """The most memory that the workers have needed, beyond what they were forked with."""
        return 0 if self._workers is None else self._workers.peak_bytes()

    def close(self) -> None:
        """End the workers."""
        if self._workers is not None:
            self._workers.end()
            self._workers = None

    def __enter__(self) -> DataParallel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def _worth_sharing(self, x: Array) -> bool:
        """Whether there are images for two processes, and kernels that take shares of them.

        The system kills a worker when the thread that forked it ends, so only the main thread has
        workers.
        """
        enough = self.processes > 1 and len(x) >= 2 * LEAST_IMAGES
        on_kernels = kernels_in_use() and x.dtype == np.float32
        return enough and on_kernels and threading.current_thread() is threading.main_thread()

    def _ready(self, x: Array) -> bool:
        """Whether there are workers that can take `x`; they are forked if need be."""
        if self._workers is not None and not self._workers.can_take(x):
            self.close()
        if self._workers is None:
            try:
                room = max(self.batch_size, len(x)), x.size // len(x)
                self._workers = Workers(self.module, self.processes, *room)
            except OSError:  # no more processes, or no semaphores: it works without
                self.processes = 1
        return self._workers is not None

    @contextmanager
    def _closed_after_an_error(self):
        try:
            yield
        except BaseException:
            self.close()
            raise
