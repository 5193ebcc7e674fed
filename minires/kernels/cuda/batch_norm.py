"""Batch norm on its own, and the passes that the fused unit shares with it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minires.backend import Array, kernel
from minires.functional.batch_norm import BatchNormCache
from minires.kernels.cuda.arrays import (
    THREADS,
    cuda_type,
    is_activation,
    logical,
    to_nhwc,
    vector_width,
    walk,
)
from minires.kernels.cuda.runtime import empty, launch

EVERYWHERE, RECOMPUTED, STORED = range(3)
"""What the ReLU let through: see `Mask` in batch_norm.cu."""

GROUP = (8, 32)


class Affine(NamedTuple):
    """float32 (4, C): mean, inv_std, scale and shift of each channel."""

    table: Array

    @property
    def mean(self) -> Array:
        return self.table[0]

    @property
    def inv_std(self) -> Array:
        return self.table[1]


def are_parameters(*vectors: Array) -> bool:
    """Whether all vectors are float32 and lie in one piece."""
    return all(v.dtype == np.float32 and v.flags.c_contiguous for v in vectors)


def batch_affine(
    y: Array, gamma, beta, running_mean, running_var, momentum: float, eps: float
) -> Affine:
    """From the statistics of y (N, H, W, C); the running buffers move."""
    channels = y.shape[-1]
    rows = y.size // channels
    width = vector_width(channels, y)
    plan = walk(rows, channels, width)
    partial = empty((plan.grid[1], 2, channels), np.float32)
    name = f"moments<{cuda_type(y)}, {width}>"
    launch("batch_norm", name, plan.grid, plan.block, y, partial, rows, channels, plan.slab)
    return finish_moments(
        partial, plan.slab, rows, gamma, beta, running_mean, running_var, momentum, eps
    )


def finish_moments(
    partial: Array, slab: int, rows: int, gamma, beta, running_mean, running_var, momentum, eps
) -> Affine:
    """Merge partial moments (slabs, 2, C) of `slab` rows each."""
    slabs, _, channels = partial.shape
    affine = empty((4, channels), np.float32)
    launch("batch_norm", "finish_moments", (-(-channels // GROUP[0]),), GROUP, partial, slabs, slab,
           rows, channels, gamma, beta, running_mean, running_var, float(momentum), float(eps),
           affine)
    return Affine(affine)


def running_affine(gamma: Array, beta: Array, running_mean, running_var, eps: float) -> Affine:
    """From the running statistics, which stay as they are."""
    channels = gamma.size
    affine = empty((4, channels), np.float32)
    launch("batch_norm", "running_affine", (-(-channels // THREADS),), (THREADS,), channels, gamma,
           beta, running_mean, running_var, float(eps), affine)
    return Affine(affine)


def normalize(y: Array, affine: Affine, shortcut: Array | None, relu: bool) -> Array:
    """relu(y * scale + shift + shortcut), all (N, H, W, C)."""
    channels = y.shape[-1]
    rows = y.size // channels
    out = empty(y.shape, y.dtype)
    width = vector_width(channels, y, out, shortcut)
    plan = walk(rows, channels, width)
    name = f"normalize<{cuda_type(y)}, {width}>"
    launch("batch_norm", name, plan.grid, plan.block, y, shortcut, out, affine.table, rows,
           channels, relu)
    return out


class Gradient(NamedTuple):
    """grad_y (N, H, W, C), grad_gamma (C,), grad_beta (C,), and the masked gradient or None."""

    y: Array
    gamma: Array
    beta: Array
    masked: Array | None


def backward(
    grad: Array, y: Array, affine: Affine, gamma: Array, batch_statistics: bool, out: Array | None,
    mask: int,
) -> Gradient:
    """Through the ReLU and batch norm: grad, y and out are (N, H, W, C) of one type.

    With a `STORED` mask, out is the unit's output, and the masked gradient is kept.
    """
    channels = y.shape[-1]
    rows = y.size // channels
    masked = empty(y.shape, y.dtype) if mask == STORED else None
    width = vector_width(channels, grad, y, out, masked)
    plan = walk(rows, channels, width)
    slabs = plan.grid[1]
    partial = empty((slabs, 2, channels), np.float32)
    launch("batch_norm", f"gradient_sums<{cuda_type(y)}, {width}>", plan.grid, plan.block, grad, y,
           out, affine.table, masked, partial, rows, channels, plan.slab, mask)
    sums, coefficients = empty((2, channels), np.float32), empty((3, channels), np.float32)
    launch("batch_norm", "finish_gradient", (-(-channels // GROUP[0]),), GROUP, partial, slabs,
           rows, channels, gamma, affine.table, batch_statistics, sums[0], sums[1],
           coefficients)
    target = empty(y.shape, y.dtype)
    source = grad if masked is None else masked
    width = vector_width(channels, source, y, target)
    launch("batch_norm", f"input_gradient<{cuda_type(y)}, {width}>", plan.grid, plan.block, source,
           y, affine.table, coefficients, target, rows, channels,
           RECOMPUTED if mask == RECOMPUTED else EVERYWHERE)
    return Gradient(target, sums[0], sums[1], masked)


class AffineCache(BatchNormCache):
    """A `BatchNormCache` whose mean and inv_std are rows of an `Affine`."""

    affine: Affine


@kernel("batch_norm_forward", "gpu")
def batch_norm_forward(
    x, weight, bias, running_mean, running_var, training=True, momentum=0.1, eps=1e-5
):
    """`functional.batch_norm.batch_norm_forward`."""
    vectors = (weight, bias, running_mean, running_var)
    if not is_activation(x) or not are_parameters(*vectors):
        return NotImplemented
    y = to_nhwc(x)
    affine = (
        batch_affine(y, *vectors, momentum, eps) if training else running_affine(*vectors, eps)
    )
    out = normalize(y, affine, None, relu=False)
    cache = AffineCache(logical(y), weight, affine.mean, affine.inv_std, training)
    cache.affine = affine
    return logical(out), cache


@kernel("batch_norm_backward", "gpu")
def batch_norm_backward(grad_output: Array, cache: BatchNormCache):
    """`functional.batch_norm.batch_norm_backward`."""
    affine = getattr(cache, "affine", None)
    if affine is None or not is_activation(grad_output, cache.x):
        return NotImplemented
    result = backward(
        to_nhwc(grad_output), to_nhwc(cache.x), affine, cache.weight, cache.batch_statistics, None,
        EVERYWHERE,
    )
    return logical(result.y), result.gamma, result.beta
