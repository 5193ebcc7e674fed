"""Gradient clipping over the flat gradients of an optimizer."""

from __future__ import annotations

from minires.backend import Array, array_module
from minires.functional.optimizer import (
    clip_factor,
    clip_in_place,
    scale_in_place,
    squared_norm,
)
from minires.optim.base import Optimizer


def gradient_norm(optimizer: Optimizer) -> Array:
    """The Euclidean norm of all gradients together: a float64 0-d array on the device."""
    total = sum(squared_norm(group.gradients()) for group in optimizer.groups)
    return array_module(total).sqrt(total)


def clip_by_value(optimizer: Optimizer, limit: float) -> None:
    """Bring every component of every gradient into [-limit, limit], in place."""
    for group in optimizer.groups:
        clip_in_place(group.gradients(), limit)


def clip_by_norm(optimizer: Optimizer, limit: float) -> Array:
    """Scale all gradients by min(1, limit / (norm + 1e-6)), in place; returns the norm before.

    The norm is that of all gradients together, a float64 0-d array; nothing waits for the device.
    Source: Pascanu et al. 2013, "On the difficulty of training recurrent neural networks",
    algorithm 1, in the form of torch.nn.utils.clip_grad_norm_.
    """
    gradients = [group.gradients() for group in optimizer.groups]
    norm, factor = clip_factor(gradients[0], tuple(map(squared_norm, gradients)), limit)
    for values in gradients:
        scale_in_place(values, factor.astype(values.dtype, copy=False))
    return norm
