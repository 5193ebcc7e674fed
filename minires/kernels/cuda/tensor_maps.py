"""Tensor maps: what Hopper's tensor memory accelerator is told about an array, see conv_tma.cu.

A map is 128 bytes that only the driver can write; a kernel takes maps by value, so that a captured
graph holds them. The limits are those of `cuTensorMapEncodeIm2col` and `cuTensorMapEncodeTiled` in
the CUDA driver API, "Tensor Map Object Management" (the comments of cuda.h say the same).
"""

from __future__ import annotations

import ctypes
import functools
from typing import NamedTuple

import numpy as np

from minires.errors import DeviceError
from minires.kernels.cuda.instantiations import HOPPER_STEP
from minires.kernels.cuda.runtime import driver_function

MAP_BYTES, ALIGNMENT = 128, 128
"""Of a CUtensorMap, and of the address that the driver writes it to (64 until CUDA 12)."""

NO_MAP = bytes(MAP_BYTES)
"""In the place of a map that nobody reads."""

CORNERS = range(-128, 128)
"""Where the corners of a box of pixels may lie, for a tensor of four dimensions."""

TAPS = 256
"""Taps along one axis: a copy gives the place of its tap in 8 bits (PTX ISA, "im2col offsets")."""

MOST_STEP = 8
"""The largest step from window to window along one axis (a traversal stride)."""

_DATA_TYPES = {"float16": 6, "bfloat16": 9}  # CUtensorMapDataType
_INTERLEAVE_NONE, _SWIZZLE_128B, _PROMOTE_L2_128B, _FILL_ZEROS = 0, 3, 2, 0

_int_p, _u32_p, _u64_p = map(ctypes.POINTER, (ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64))
_HEAD = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p, _u64_p, _u64_p)
_TAIL = (_u32_p, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)
_PROTOTYPES = {
    "cuTensorMapEncodeIm2col": ctypes.CFUNCTYPE(
        ctypes.c_int, *_HEAD, _int_p, _int_p, ctypes.c_uint32, ctypes.c_uint32, *_TAIL
    ),
    "cuTensorMapEncodeTiled": ctypes.CFUNCTYPE(ctypes.c_int, *_HEAD, _u32_p, *_TAIL),
}


class Windows(NamedTuple):
    """The windows along one axis of an image: window i begins at pixel first + i step.

    `size` is the pixels of the axis, `count` the windows, `taps` the pixels that a window reads.
    """

    size: int
    count: int
    taps: int
    first: int
    step: int

    @property
    def corners(self) -> tuple[int, int]:
        """The box of the windows' first pixels, from the first pixel and from the last.

        The box ends with the last window, so nothing hangs on how a step that does not reach its
        end would be rounded.
        """
        return self.first, self.first + (self.count - 1) * self.step - (self.size - 1)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to read: an axis of a class without pixels, or without taps."""
        return self.count <= 0 or self.taps <= 0

    @property
    def fits(self) -> bool:
        """Whether a map can describe them."""
        corners = all(corner in CORNERS for corner in self.corners)
        return corners and self.taps <= TAPS and self.step <= MOST_STEP


def forward_windows(size: int, count: int, taps: int, stride: int, padding: int) -> Windows:
    """Of a convolution: `forward_axis` in conv.cuh."""
    return Windows(size, count, taps, -padding, stride)


def backward_windows(
    size: int, pixels: int, taps: int, stride: int, padding: int, parity: int
) -> Windows:
    """Of the gradient (`size`) of every stride-th of `pixels` from `parity` on: `backward_axis`."""
    first = (parity + padding) % stride
    reach = max(0, -(-(taps - first) // stride))
    count = max(0, -(-(pixels - parity) // stride))
    return Windows(size, count, reach, (parity + padding - first) // stride - reach + 1, 1)


def can_encode() -> bool:
    """Whether the driver has the functions: since CUDA 12.0."""
    return all(driver_function(name) for name in _PROTOTYPES)


def window_map(
    address: int, shape: tuple[int, ...], dtype: str, down: Windows, right: Windows, pixels: int
) -> bytes:
    """The map of the windows of an array (N, H, W, C): `pixels` of them and 64 channels a copy.

    `address` is a multiple of 16, C of 64, `dtype` "float16" or "bfloat16". Dimensions go to the
    driver with the fastest first, C, W, H, N, and so do the corners, W before H: the documentation
    calls them "{D, H, W}", but CUTLASS (copy_traits_sm90_im2col.hpp) and Triton pass W first.
    """
    n, h, w, c = shape
    lower, upper = zip(right.corners, down.corners, strict=True)
    return _encode(
        "cuTensorMapEncodeIm2col", _DATA_TYPES[dtype], 4, address, (c, w, h, n),
        tuple(2 * c * count for count in (1, w, w * h)), lower, upper, HOPPER_STEP, pixels,
        (1, right.step, down.step, 1),
    )  # fmt: skip


def matrix_map(address: int, rows: int, columns: int, dtype: str, box_rows: int) -> bytes:
    """The map of a matrix in row order: `box_rows` rows of 64 values a copy, zeros outside.

    `address` is a multiple of 16, `columns` of 8, `box_rows` at most 256.
    """
    return _encode(
        "cuTensorMapEncodeTiled", _DATA_TYPES[dtype], 2, address, (columns, rows), (2 * columns,),
        (HOPPER_STEP, box_rows), (1, 1),
    )  # fmt: skip


def _encode(name: str, *arguments) -> bytes:
    """What the driver makes of the arguments up to the traversal strides."""
    return _call(driver_function(name), name, *arguments)


@functools.lru_cache(maxsize=2048)
def _call(function: int, name: str, *arguments) -> bytes:
    """The same arguments give the same map, so it is kept: a launch then costs no call."""
    memory = (ctypes.c_uint8 * (MAP_BYTES + ALIGNMENT))()
    start = -ctypes.addressof(memory) % ALIGNMENT
    prototype = _PROTOTYPES[name]
    values = [
        (kind._type_ * len(value))(*value) if isinstance(value, tuple) else value
        for value, kind in zip(arguments, prototype._argtypes_[1:], strict=False)
    ]
    how = (_INTERLEAVE_NONE, _SWIZZLE_128B, _PROMOTE_L2_128B, _FILL_ZEROS)
    code = prototype(function)(ctypes.addressof(memory) + start, *values, *how)
    if code != 0:
        raise DeviceError(f"{name} failed with CUDA error {code}; MINIRES_TMA=0 does without it")
    return bytes(memory[start : start + MAP_BYTES])


def together(*maps: bytes) -> np.ndarray:
    """Maps as one argument of a kernel: a record, which goes by value."""
    opaque = b"".join(maps)
    return np.frombuffer(opaque, [("opaque", np.uint8, len(opaque))])
