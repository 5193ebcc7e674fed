"""What stands between the large operations of a training step: see step.cu."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minires.backend import Array, kernel
from minires.kernels.cuda.arrays import BLOCKS, THREADS, blocks_for, cuda_type, to_nhwc
from minires.kernels.cuda.instantiations import TYPES
from minires.kernels.cuda.runtime import address, empty, launch

COLUMNS, ROWS = 32, 8
"""Threads of a block that adds up columns, as in step.cu."""

SLAB = 512
"""About how many rows such a block takes."""

PIECES, PIECE_BLOCKS = 128, 256
"""How many arrays one launch of `copy_pieces` copies, as in step.cu, and how many blocks copy one
of them at most. The table of 128 addresses and sizes has to fit a kernel's 4096 bytes of arguments.
"""

NUMBERS, SQUARES = 8, 4
"""How many numbers one launch of `set_numbers` takes, and how many squares of `clip_factor`."""


def _blocks(size: int) -> tuple[int]:
    return (min(blocks_for(size)[0], BLOCKS),)


def _memory_order(array: Array) -> list[int]:
    """The axes, from that with the longest steps in memory to that with the shortest."""
    return sorted(range(array.ndim), key=lambda axis: -array.strides[axis])


def _flat(array: Array, order: list[int]) -> Array | None:
    """The values as a 1-D array in this order of the axes: a view if it can be, else a copy.

    None for a layout that `pack` does not know.
    """
    view = array.transpose(order)
    if view.flags.c_contiguous:
        return view.reshape(-1)
    if view.ndim == 2:
        view = view[:, None, None, :]
    return to_nhwc(view.transpose(0, 3, 1, 2)).reshape(-1) if view.ndim == 4 else None


def _source(target: Array, values: Array) -> Array | None:
    """`values` as a 1-D array in the memory order of `target`; None for what is not known here."""
    if target.shape != values.shape or {target.dtype, values.dtype} != {np.dtype(np.float32)}:
        return None
    order = _memory_order(target)
    if not target.size or not target.transpose(order).flags.c_contiguous:
        return None
    return _flat(values, order)


def _change(target: Array, values: Array, add: bool) -> None:
    source = _source(target, values)
    if source is None:
        return NotImplemented
    launch("step", "copy_values", _blocks(target.size), (THREADS,), target, source,
           np.int64(target.size), add)
    return None


@kernel("assign_in_place", "gpu")
def assign_in_place(target: Array, values: Array) -> None:
    """`functional.gradients.assign_in_place`."""
    return _change(target, values, add=False)


@kernel("add_in_place", "gpu")
def add_in_place(target: Array, values: Array) -> None:
    """`functional.gradients.add_in_place`."""
    return _change(target, values, add=True)


_TABLE = np.dtype([(name, np.int64, PIECES) for name in ("targets", "values", "sizes")])


@kernel("assign_all_in_place", "gpu")
def assign_all_in_place(targets: tuple[Array, ...], values: tuple[Array, ...]) -> None:
    """`functional.gradients.assign_all_in_place`."""
    pairs = [(t, _source(t, v)) for t, v in zip(targets, values, strict=True)]
    if any(source is None for _, source in pairs):
        return NotImplemented
    for start in range(0, len(pairs), PIECES):
        piece = pairs[start : start + PIECES]
        table = np.zeros(1, _TABLE)
        for column, (target, source) in enumerate(piece):
            row = address(target), address(source), target.size
            for name, value in zip(_TABLE.names, row, strict=True):
                table[name][0, column] = value
        (across,) = _blocks(max(target.size for target, _ in piece))
        launch("step", "copy_pieces", (min(across, PIECE_BLOCKS), len(piece)), (THREADS,), table)
    return None


def add_bias(y: Array, bias: Array) -> None:
    """y (..., K) <- y + bias (K,), in place; y in row order, bias float32."""
    launch("step", f"add_bias<{cuda_type(y)}>", _blocks(y.size), (THREADS,), y, bias,
           np.int64(y.size), y.shape[-1])


def column_sums(x: Array) -> Array:
    """The sums of the columns of x (rows, K), float32 (K,), in a fixed order."""
    rows, k = x.shape
    while True:
        slabs = max(1, rows // SLAB)
        slab = -(-rows // slabs)
        slabs = -(-rows // slab)
        sums = empty((slabs, k), np.float32)
        launch("step", f"column_sums<{cuda_type(x)}>", (-(-k // COLUMNS), slabs), (COLUMNS, ROWS),
               x, sums, rows, k, slab)
        if slabs == 1:
            return sums[0]
        x, rows = sums, slabs


@kernel("count_batch", "gpu")
def count_batch(logits: Array, labels: Array, loss: Array, totals: Array) -> None:
    """`functional.loss.count_batch`."""
    hard = labels.ndim == 1
    fits = logits.dtype.name in TYPES and labels.dtype == (np.int64 if hard else np.float32)
    if not fits or not (logits.flags.c_contiguous and labels.flags.c_contiguous):
        return NotImplemented
    launch("step", f"count_batch<{cuda_type(logits)}>", (1,), (1024,), logits,
           labels if hard else None, None if hard else labels, loss, totals, *logits.shape)
    return None


@kernel("clip_factor", "gpu")
def clip_factor(values: Array, squares: tuple[Array, ...], limit: float) -> tuple[Array, Array]:
    """`functional.optimizer.clip_factor`; one launch for up to four groups of parameters."""
    if any(s.dtype != np.float64 for s in squares):
        return NotImplemented
    while len(squares) > SQUARES:
        total = empty((), np.float64)
        launch("step", "add_squares", (1,), (1,), *squares[:SQUARES], total)
        squares = (total, *squares[SQUARES:])
    norm, factor = empty((), np.float64), empty((), np.float32)
    more = [None] * (SQUARES - len(squares))
    launch("step", "clip_factor", (1,), (1,), *squares, *more, float(limit), norm, factor)
    return norm, factor


def set_numbers(
    values: Array, numbers: Sequence[float], counters: Array, counts: tuple[int, int],
    kept: Array, indices: Array,
) -> None:
    """values (n,) float32 <- numbers; counters (2,) int64 <- counts; kept (B,) int64 <- indices.

    Nothing waits. That is one launch for up to `NUMBERS` numbers.
    """
    for start in range(0, len(numbers), NUMBERS):
        given = [float(number) for number in numbers[start : start + NUMBERS]]
        launch("step", "set_numbers", (1,), (THREADS,), values[start : start + len(given)],
               len(given), counters, *map(np.int64, counts), kept, indices, indices.size, *given,
               *[0.0] * (NUMBERS - len(given)))
