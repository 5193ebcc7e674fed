"""The two ends of a network: the batch, the linear layer, the loss."""

from __future__ import annotations

import numpy as np

from minires.backend import Array, kernel
from minires.functional.linear import LinearCache
from minires.functional.loss import CrossEntropyCache
from minires.functional.random import AUGMENT, random_bits
from minires.kernels.cuda import precision
from minires.kernels.cuda.arrays import THREADS, blocks_for, cuda_type, either, logical, to_nhwc
from minires.kernels.cuda.instantiations import TYPES
from minires.kernels.cuda.runtime import empty, launch, product
from minires.kernels.cuda.step import add_bias, column_sums

MAX_CHANNELS = 8
"""As in images.cu."""


@kernel("augment_batch", "gpu")
def augment_batch(images, indices, table, offsets=None, flips=None, padding=0) -> Array:
    """`functional.augmentation.augment_batch`; the batch has the type of the precision."""
    n, c, h, w = images.shape
    given = [a for a in (images, indices, table, offsets, flips) if a is not None]
    if c > MAX_CHANNELS or table.dtype != np.float32 or indices.dtype != np.int64:
        return NotImplemented
    if not all(array.flags.c_contiguous for array in given) or not indices.size:
        return NotImplemented
    x = empty((indices.size, h, w, c), precision.current.dtype)
    cropped = offsets if padding else None
    launch("images", f"augment<{cuda_type(x)}>", blocks_for(indices.size * h * w), (THREADS,),
           images, indices, table, cropped, flips, x, indices.size, c, h, w, padding)
    return logical(x)


@kernel("draw_augmentation", "gpu")
def draw_augmentation(seed: int, epoch: int, indices: Array, padding: int, flip: bool):
    """`functional.augmentation.draw_augmentation`, the same numbers; epoch may be on the device."""
    if indices.dtype != np.int64 or not indices.flags.c_contiguous:
        return NotImplemented
    offsets = empty((indices.size, 2), np.int64)
    flips = empty((indices.size,), np.bool_)
    launch("images", "draw", blocks_for(indices.size), (THREADS,),
           np.uint64(random_bits(seed, AUGMENT)), *either(epoch, np.int64), indices, offsets, flips,
           indices.size, padding, bool(flip))
    return offsets, flips


@kernel("take_labels", "gpu")
def take_labels(labels: Array, indices: Array):
    """`functional.augmentation.take_labels`."""
    given = (labels, indices)
    if any(a.dtype != np.int64 or not a.flags.c_contiguous for a in given) or not indices.size:
        return NotImplemented
    taken = empty(indices.shape, np.int64)
    launch("images", "take_labels", blocks_for(indices.size), (THREADS,), *given, taken,
           indices.size)
    return taken


def _widened(array: Array) -> Array:
    """A matrix in float32 and in row order."""
    return to_nhwc(array[:, :, None, None], np.float32).reshape(array.shape)


@kernel("linear_forward", "gpu")
def linear_forward(x, weight, bias=None):
    """`functional.linear.linear_forward` in float32, whatever the type of x."""
    if x.dtype.name not in TYPES or weight.dtype != np.float32 or not x.size:
        return NotImplemented
    y = empty((x.shape[0], weight.shape[0]), np.float32)
    product(_widened(x), _widened(weight), y, b_t=True)
    if bias is not None:
        add_bias(y, bias)
    return y, LinearCache(x, weight, bias is not None)


@kernel("linear_backward", "gpu")
def linear_backward(grad_output: Array, cache: LinearCache):
    """`functional.linear.linear_backward` in float32; grad_x has the type of grad_output."""
    x, weight, has_bias = cache
    if grad_output.dtype != np.float32 or weight.dtype != np.float32 or x.dtype.name not in TYPES:
        return NotImplemented
    grad = _widened(grad_output)
    grad_x, grad_weight = empty(x.shape, np.float32), empty(weight.shape, np.float32)
    product(grad, _widened(weight), grad_x)
    product(grad, _widened(x), grad_weight, a_t=True)
    return grad_x, grad_weight, column_sums(grad) if has_bias else None


def _cross_entropy(logits: Array, labels: Array | None, shares: Array | None, smoothing: float):
    """The loss and its cache; either labels (N,) or shares (N, K) of the classes are given."""
    given = logits, shares if labels is None else labels
    fits = logits.dtype.name in TYPES and logits.size
    if not fits or not all(array.flags.c_contiguous for array in given):
        return NotImplemented
    n, k = logits.shape
    probabilities, targets = empty((n, k), np.float32), empty((n, k), np.float32)
    loss = empty((), np.float32)
    launch("loss", f"cross_entropy<{cuda_type(logits)}>", (1,), (1024,), logits, labels, shares,
           probabilities, targets, loss, n, k, float(smoothing))
    return loss, CrossEntropyCache(probabilities, targets, logits)


@kernel("cross_entropy_forward", "gpu")
def cross_entropy_forward(logits, labels, label_smoothing=0.0):
    """`functional.loss.cross_entropy_forward`."""
    if labels.dtype != np.int64:
        return NotImplemented
    return _cross_entropy(logits, labels, None, label_smoothing)


@kernel("soft_cross_entropy_forward", "gpu")
def soft_cross_entropy_forward(logits, shares, label_smoothing=0.0):
    """`functional.loss.soft_cross_entropy_forward`."""
    if shares.dtype != np.float32:
        return NotImplemented
    return _cross_entropy(logits, None, shares, label_smoothing)


@kernel("cross_entropy_backward", "gpu")
def cross_entropy_backward(cache: CrossEntropyCache) -> Array:
    """`functional.loss.cross_entropy_backward`."""
    probabilities, targets, like = cache
    if probabilities.dtype != np.float32 or like.dtype.name not in TYPES:
        return NotImplemented
    grad = empty(like.shape, like.dtype)
    launch("loss", f"cross_entropy_gradient<{cuda_type(like)}>", blocks_for(grad.size), (THREADS,),
           probabilities, targets, grad, np.int64(grad.size), like.shape[0])
    return grad
