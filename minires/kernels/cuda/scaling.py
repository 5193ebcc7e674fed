"""Loss scaling on the device: see scaling.cu."""

from __future__ import annotations

import numpy as np

from minires.backend import Array, kernel
from minires.functional.loss_scaling import BACKOFF, GROWTH, INTERVAL
from minires.kernels.cuda.arrays import BLOCKS, THREADS, blocks_for
from minires.kernels.cuda.runtime import launch


@kernel("unscale_in_place", "gpu")
def unscale_in_place(values: Array, scale: Array, found: Array) -> None:
    """`functional.loss_scaling.unscale_in_place`."""
    if values.dtype != np.float32 or not values.flags.c_contiguous:
        return NotImplemented
    blocks = min(blocks_for(values.size)[0], BLOCKS)
    launch("scaling", "unscale", (blocks,), (THREADS,), values, np.int64(values.size), scale, found)
    return None


@kernel("update_scale", "gpu")
def update_scale(
    scale: Array,
    good_steps: Array,
    found: Array,
    growth: float = GROWTH,
    backoff: float = BACKOFF,
    interval: int = INTERVAL,
) -> None:
    """`functional.loss_scaling.update_scale`."""
    launch("scaling", "update_scale", (1,), (1,), scale, good_steps, found, float(growth),
           float(backoff), interval)
    return None


@kernel("count_in_place", "gpu")
def count_in_place(count: Array, skip: Array) -> None:
    """`functional.optimizer.count_in_place`."""
    launch("scaling", "count_update", (1,), (1,), count, skip)
    return None
