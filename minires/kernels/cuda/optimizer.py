"""The updates of the optimizers, clipping and averaging: one launch each, see optimizer.cu.

A learning rate, a momentum (Adam's is beta1) and the decay of an average may be 0-d float32 arrays
on the device, the number of an update a 0-d int64 array: a captured graph then reads what stands
there when it is replayed. So it is with `skip`, a 0-d float32 array: if it is not 0, nothing
changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.backend import Array, kernel
from minires.kernels.cuda.arrays import BLOCKS, THREADS, blocks_for, either, on_device
from minires.kernels.cuda.runtime import empty, launch

SUM_THREADS = 256
"""As in optimizer.cu."""


def _are_flat(*arrays: Array | None) -> bool:
    """Whether all arrays (None aside) are float32, of one size, in one piece, and not empty."""
    given = [array for array in arrays if array is not None]
    size = given[0].size
    return size > 0 and all(
        a.dtype == np.float32 and a.flags.c_contiguous and a.size == size for a in given
    )


def _blocks(size: int) -> tuple[int]:
    return (min(blocks_for(size)[0], BLOCKS),)


def _update(name: str, size: int, *arguments: Any) -> None:
    launch("optimizer", name, _blocks(size), (THREADS,), *arguments)


@kernel("sgd_step", "gpu")
def sgd_step(
    weights, grads, velocity, lr, momentum=0.0, weight_decay=0.0, nesterov=False, skip=None
):
    """`functional.optimizer.sgd_step`."""
    if not _are_flat(weights, grads, velocity):
        return NotImplemented
    _update("sgd", weights.size, weights, grads, velocity, np.int64(weights.size),
            *either(lr, np.float32), *either(momentum, np.float32), float(weight_decay),
            bool(nesterov), skip)
    return None


@kernel("adam_step", "gpu")
def adam_step(
    weights, grads, mean, square, lr, step, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0,
    decoupled=False, skip=None,
):
    """`functional.optimizer.adam_step`."""
    if not _are_flat(weights, grads, mean, square):
        return NotImplemented
    _update("adam", weights.size, weights, grads, mean, square, np.int64(weights.size),
            *either(lr, np.float32), *either(step, np.int64),
            *either(beta1, np.float32, np.float64), np.float64(beta2), float(eps),
            float(weight_decay), bool(decoupled), skip)
    return None


@kernel("rmsprop_step", "gpu")
def rmsprop_step(
    weights, grads, square, mean, velocity, lr, alpha=0.99, eps=1e-8, weight_decay=0.0,
    momentum=0.0, skip=None,
):
    """`functional.optimizer.rmsprop_step`."""
    if not _are_flat(weights, grads, square, mean, velocity):
        return NotImplemented
    _update("rmsprop", weights.size, weights, grads, square, mean, velocity,
            np.int64(weights.size), *either(lr, np.float32), np.float64(alpha), float(eps),
            float(weight_decay), *either(momentum, np.float32), skip)
    return None


@kernel("average_step", "gpu")
def average_step(average: Array, values: Array, decay: float):
    """`functional.optimizer.average_step`."""
    if not _are_flat(average, values):
        return NotImplemented
    device = decay if on_device(decay, np.float32) else None
    _update("average", average.size, average, values, np.int64(average.size), device,
            0.0 if device is not None else float(1 - decay))
    return None


@kernel("scale_in_place", "gpu")
def scale_in_place(values: Array, factor: Array):
    """`functional.optimizer.scale_in_place`."""
    if not _are_flat(values):
        return NotImplemented
    _update("scale", values.size, values, *either(factor, np.float32), np.int64(values.size))
    return None


@kernel("clip_in_place", "gpu")
def clip_in_place(values: Array, limit: float):
    """`functional.optimizer.clip_in_place`."""
    if not _are_flat(values):
        return NotImplemented
    _update("clip", values.size, values, float(limit), np.int64(values.size))
    return None


@kernel("squared_norm", "gpu")
def squared_norm(values: Array):
    """`functional.optimizer.squared_norm`, added up in float64."""
    if not _are_flat(values):
        return NotImplemented
    grid = _blocks(values.size)
    partial, total = empty(grid, np.float64), empty((), np.float64)
    launch("optimizer", "sum_of_squares", grid, (SUM_THREADS,), values, partial,
           np.int64(values.size))
    launch("optimizer", "finish_sum", (1,), (SUM_THREADS,), partial, total, *grid)
    return total
