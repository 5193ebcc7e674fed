"""cuBLAS by itself: the one call that the kernels need, in a form that a CUDA graph can capture.

CuPy refuses cuBLAS while a stream is captured, because a call may ask for memory then. With a
handle of our own and a workspace that it was given beforehand it never does. The library is the one
that CuPy has loaded.

Source: the cuBLAS manual, section 2.1.11, "CUDA graphs support".
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from typing import Any

import numpy as np

from minires.backend import Array
from minires.errors import DeviceError

LIBRARIES = ("libcublas.so.13", "libcublas.so.12", "cublas64_13.dll", "cublas64_12.dll")

WORKSPACE_BYTES = 32 << 20
"""What the manual asks for on Hopper."""

_TYPES = {"float32": 0, "float16": 2, "bfloat16": 14}  # cudaDataType
_COMPUTE_32F, _COMPUTE_32F_FAST_TF32 = 68, 77  # cublasComputeType
_ANY_ALGORITHM = -1


class Cublas:
    """A handle on one device, with its workspace, that follows the current stream."""

    def __init__(self) -> None:
        cupy = importlib.import_module("cupy")
        importlib.import_module("cupy.cuda.cublas")  # loads the library
        self._cupy, self._library = cupy, _load()
        self._handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        self._workspace = cupy.cuda.alloc(WORKSPACE_BYTES)
        self._stream: int | None = None

    def product(self, a: Array, b: Array, out: Array, a_t: bool, b_t: bool, add: bool, tf32: bool):
        """out = op(a) op(b) (+ out): row-major matrices, sums in float32.

        cuBLAS counts columns first, so it is asked for the transposed product.
        """
        self._follow(self._cupy.cuda.get_current_stream().ptr)
        m, n = out.shape
        k = a.shape[0] if a_t else a.shape[1]
        compute = _COMPUTE_32F_FAST_TF32 if tf32 and a.dtype == np.float32 else _COMPUTE_32F
        one, beta = ctypes.c_float(1.0), ctypes.c_float(float(add))
        self._call(
            "cublasGemmEx", self._handle, int(b_t), int(a_t), n, m, k,
            ctypes.byref(one), _pointer(b), _TYPES[b.dtype.name], b.shape[1],
            _pointer(a), _TYPES[a.dtype.name], a.shape[1],
            ctypes.byref(beta), _pointer(out), _TYPES[out.dtype.name], n, compute, _ANY_ALGORITHM,
        )  # fmt: skip

    def _follow(self, stream: int) -> None:
        """Work on `stream` from now on; that takes the workspace away, so it is given again."""
        if stream == self._stream:
            return
        self._call("cublasSetStream_v2", self._handle, ctypes.c_void_p(stream))
        place = ctypes.c_void_p(self._workspace.ptr)
        size = ctypes.c_size_t(WORKSPACE_BYTES)
        self._call("cublasSetWorkspace_v2", self._handle, place, size)
        self._stream = stream

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise DeviceError(f"cuBLAS failed: {name} returned status {status}")


def _pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.data.ptr)


def _load() -> ctypes.CDLL:
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise DeviceError("cuBLAS is not found; install it with CuPy: pip install -e '.[cuda13]'")


@functools.cache
def on_device(device: int) -> Cublas:
    """The handle of `device`, which must be the current one."""
    return Cublas()
