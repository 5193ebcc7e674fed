"""The part of the CUDA driver that makes tensor maps, for the CPU.

Written from the documentation of the driver API ("Tensor Map Object Management", the comments of
cuda.h): every argument is checked against what it says, and what breaks a rule is
CUDA_ERROR_INVALID_VALUE. A map is 128 bytes of a layout of our own, which tma_twin.h reads.
"""

from __future__ import annotations

import ctypes
import struct

INVALID_VALUE = 1
MAGIC = 0x7A9B0001
LAYOUT = struct.Struct("<I4BQ4Q3Q2h2h2H4B")  # `Map` in tma_twin.h
TILED, IM2COL = 1, 2

_P, _I, _U = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32
_U64S, _U32S = ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_uint32)
_INTS = ctypes.POINTER(ctypes.c_int)

refused: list[str] = []
"""Which rule each refused call has broken."""

encoded: list[tuple] = []
"""What each call that went well was given: the mode, and what the layout holds."""


def _rule(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(rule)


def _common(place, data_type, rank, address, dims, strides, steps, how, inner):
    """The rules that both modes share; `inner`: bytes of the box along the first dimension."""
    interleave, swizzle, promotion, fill = how
    _rule(place % 64 == 0, "tensorMap must be aligned to 64 bytes")
    _rule(data_type in (6, 9), "FLOAT16 is 6, BFLOAT16 is 9; the twin knows no others")
    _rule(address % 16 == 0, "globalAddress must be 16 byte aligned")
    _rule(all(0 < d <= 2**32 for d in dims), "globalDim must be non-zero and at most 2^32")
    _rule(all(s % 16 == 0 and s < 2**40 for s in strides), "globalStrides: x 16, below 2^40")
    least = 2
    for stride, dim in zip(strides, dims, strict=False):
        least *= dim
        _rule(stride >= least, "each stride includes the dimension before it")
        least = stride
    _rule(all(0 < step <= 8 for step in steps), "elementStrides: non-zero, at most 8")
    _rule(interleave == 0, "INTERLEAVE_NONE is 0; the twin knows no other")
    _rule(swizzle == 3 and inner <= 128, "SWIZZLE_128B is 3; the inner dimension at most 128 bytes")
    _rule(promotion in range(4), "CUtensorMapL2promotion")
    _rule(fill == 0, "FLOAT_OOB_FILL_NONE is 0: zeros")


def _tiled(place, data_type, rank, address, dims, strides, box, steps, *how):
    _rule(rank == 2, "tensorRank 1 to 5; the twin knows matrices")
    dims, strides, box, steps = dims[:rank], strides[: rank - 1], box[:rank], steps[:rank]
    _common(place, data_type, rank, address, dims, strides, steps, how, 2 * box[0])
    _rule(all(0 < b <= 256 for b in box), "boxDim must be non-zero and at most 256")
    _rule(2 * box[0] % 16 == 0, "the box's first dimension must be a multiple of 16 bytes")
    return _write(place, TILED, data_type, rank, address, dims, strides, (0, 0), (0, 0), box, steps)


def _im2col(place, data_type, rank, address, dims, strides, lower, upper, channels, pixels, steps,
            *how):  # fmt: skip
    _rule(rank == 4, "tensorRank 3 to 5; the twin knows images")
    dims, strides, steps = dims[:rank], strides[: rank - 1], steps[:rank]
    lower, upper = lower[: rank - 2], upper[: rank - 2]  # W, H: the faster dimension first
    _common(place, data_type, rank, address, dims, strides, steps, how, 2 * channels)
    _rule(all(-128 <= c <= 127 for c in (*lower, *upper)), "corners of rank 4: -128 to 127")
    area = [dim - 1 + up >= low for dim, low, up in zip(dims[1:3], lower, upper, strict=True)]
    _rule(all(area), "the bounding box must have non-zero area")
    _rule(0 < channels <= 256, "channelsPerPixel at most 256")
    _rule(0 < pixels <= 1024, "pixelsPerColumn at most 1024")
    box = channels, pixels
    return _write(place, IM2COL, data_type, rank, address, dims, strides, lower, upper, box, steps)


def _write(place, mode, data_type, rank, address, dims, strides, lower, upper, box, steps):
    def wide(values, count):
        return (*values, *[0] * (count - len(values)))

    map_ = LAYOUT.pack(MAGIC, mode, rank, data_type, 3, address, *wide(dims, 4),
                       *wide(strides, 3), *lower, *upper, *box, *wide(steps, 4))  # fmt: skip
    ctypes.memmove(place, map_.ljust(128, b"\0"), 128)
    given = dims, lower, upper, box, steps
    encoded.append((mode, address, *(tuple(values) for values in given)))
    return 0


def _checked(function):
    """As the driver: no exception leaves it, only a code."""

    def call(*arguments):
        try:
            return function(*arguments)
        except ValueError as error:
            refused.append(str(error))
            return INVALID_VALUE

    return call


_callbacks = {
    "cuTensorMapEncodeTiled": ctypes.CFUNCTYPE(
        _I, _P, _I, _U, _P, _U64S, _U64S, _U32S, _U32S, _I, _I, _I, _I
    )(_checked(_tiled)),
    "cuTensorMapEncodeIm2col": ctypes.CFUNCTYPE(
        _I, _P, _I, _U, _P, _U64S, _U64S, _INTS, _INTS, _U, _U, _U32S, _I, _I, _I, _I
    )(_checked(_im2col)),
}


def driver_function(name: str) -> int | None:
    """The address of a function of this driver."""
    callback = _callbacks.get(name)
    return None if callback is None else ctypes.cast(callback, ctypes.c_void_p).value
