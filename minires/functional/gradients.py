"""The gradient of a parameter is set by its first use in a pass, and added to by every further one.

Both work in place, on arrays of one shape, so that all gradients can lie in one flat buffer.
"""

from __future__ import annotations

from minires.backend import Array, operation


@operation
def assign_in_place(target: Array, values: Array) -> None:
    """target <- values."""
    target[...] = values


@operation
def add_in_place(target: Array, values: Array) -> None:
    """target <- target + values."""
    target[...] += values
