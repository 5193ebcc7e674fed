"""Memory order (N, H, W, C) under logical shapes (N, C, H, W), and launch geometry."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from minires.backend import Array
from minires.kernels.cuda.instantiations import TYPES, VECTOR
from minires.kernels.cuda.runtime import address, empty, launch

THREADS = 256
BLOCKS = 2048
"""How many blocks a walk over rows is cut into at most: several for each multiprocessor."""


def cuda_type(array: Array) -> str:
    """The CUDA name of the array's type: "float", "__half" or "__nv_bfloat16"."""
    return TYPES[array.dtype.name]


def is_activation(*arrays: Array | None) -> bool:
    """Whether all arrays (None aside) are 4-D, of one activation type and not empty."""
    given = [array for array in arrays if array is not None]
    first = given[0]
    return all(
        a.ndim == 4 and a.dtype == first.dtype and a.dtype.name in TYPES and a.size for a in given
    )


def logical(nhwc: Array) -> Array:
    """An (N, H, W, C) array under its logical shape (N, C, H, W)."""
    return nhwc.transpose(0, 3, 1, 2)


def as_nhwc(x: Array) -> Array | None:
    """x (N, C, H, W) as an (N, H, W, C) view if its memory is in that order, else None."""
    view = x.transpose(0, 2, 3, 1)
    return view if view.flags.c_contiguous else None


def to_nhwc(x: Array, dtype: Any = None, multiple: int = 1) -> Array:
    """x (N, C, H, W) as (N, H, W, C), in `dtype`, with zero channels up to a `multiple`.

    The same memory where it fits already, else a copy.
    """
    n, c, h, w = x.shape
    width = -(-c // multiple) * multiple
    dtype = x.dtype if dtype is None else np.dtype(dtype)
    if width == c and dtype == x.dtype:
        view = as_nhwc(x)
        if view is not None:
            return view
    out = empty((n, h, w, width), dtype)
    strides = [np.int64(stride // x.dtype.itemsize) for stride in x.strides]
    name = f"pack<{cuda_type(x)}, {cuda_type(out)}>"
    launch("elementwise", name, blocks_for(out.size), (THREADS,), x, out, n, c, h, w, width,
           *strides)
    return out


def to_rows(x: Array) -> Array:
    """x (N, C, H, W) in row order: the same memory where it lies so already, else a copy."""
    if x.flags.c_contiguous:
        return x
    # the same walk as that of `to_nhwc`, with the axes in another order
    return to_nhwc(x.transpose(0, 3, 1, 2))


def on_device(value: Any, dtype: Any) -> bool:
    """Whether `value` is a 0-d array of this dtype."""
    is_array = getattr(value, "ndim", None) == 0 and not isinstance(value, np.generic)
    return is_array and value.dtype == dtype


def either(value: Any, dtype: Any, wide: Any = None) -> tuple[Array | None, Any]:
    """A kernel's pair of parameters, array and number (of type `wide`): only one counts."""
    wide = wide or dtype
    return (value, wide(0)) if on_device(value, dtype) else (None, wide(value))


def blocks_for(items: int) -> tuple[int]:
    """The grid for one thread per item."""
    return (-(-items // THREADS),)


def vector_width(length: int, *arrays: Array | None) -> int:
    """Values per thread: 16 bytes, if rows of `length` values and all addresses allow, else 1."""
    given = [array for array in arrays if array is not None]
    width = VECTOR[cuda_type(given[0])]
    whole = length % width == 0 and all(address(array) % 16 == 0 for array in given)
    return width if whole else 1


class Walk(NamedTuple):
    """How a matrix of rows and channels is shared out: see batch_norm.cu."""

    block: tuple[int, int]
    grid: tuple[int, int]
    slab: int


@functools.cache
def walk(rows: int, channels: int, width: int) -> Walk:
    """Blocks of THREADS threads, `width` channels each, over slabs of rows."""
    columns = -(-channels // width)
    across = min(32, 1 << (columns - 1).bit_length())
    down = THREADS // across
    wide = -(-columns // across)
    slabs = max(1, min(-(-rows // down), BLOCKS // wide))
    slab = -(-rows // slabs)
    return Walk((across, down), (wide, -(-rows // slab)), slab)
