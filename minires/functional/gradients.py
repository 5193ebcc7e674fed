"""The gradient of a parameter is set by its first use in a pass, and added to by every further one.

They work in place, on arrays of one shape, so that all gradients can lie in one flat buffer.
"""

from __future__ import annotations

from minires.backend import Array, operation


@operation
def assign_in_place(target: Array, values: Array) -> None:
    """target <- values."""
    target[...] = values


@operation
def assign_all_in_place(targets: tuple[Array, ...], values: tuple[Array, ...]) -> None:
    """Each of `targets` <- its array among `values`."""
    for target, array in zip(targets, values, strict=True):
        target[...] = array


@operation
def add_in_place(target: Array, values: Array) -> None:
    """target <- target + values."""
    target[...] += values
