"""How the launchers reach the GPU: memory, launches and matrix products, through CuPy.

The launchers know only the functions at the end of this file. So tests can put another runtime in
CuPy's place: one that counts, or one that runs the same kernels on the CPU.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minires.backend import Array
from minires.errors import DeviceError

Grid = tuple[int, ...]

_OPT_IN = 32 * 1024
"""From so many bytes on, a kernel's dynamic shared memory is asked for before the launch."""

_CUDA_TYPES = {"float32": 0, "float16": 2, "bfloat16": 14}  # cudaDataType
_COMPUTE_32F, _COMPUTE_32F_FAST_TF32 = 68, 77  # cublasComputeType


class CupyRuntime:
    """The real one. Everything goes to CuPy's current stream; memory comes from its pool."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of undefined values in row order."""
        return _cupy().empty(shape, dtype)

    def constant(self, values: np.ndarray) -> Array:
        """A copy of host values on the device."""
        return _cupy().asarray(values)

    def address(self, array: Array) -> int:
        """Where the first value of `array` lies."""
        return array.data.ptr

    def launch(
        self, source: str, name: str, grid: Grid, block: Grid, arguments: tuple, shared: int
    ) -> None:
        """Start kernel `name` of src/`source`.cu; every argument is an array or a NumPy scalar."""
        device = _cupy().cuda.Device().id
        function = _function(source, name, device, shared)
        function(grid, block, arguments, shared_mem=shared)

    def product(
        self, a: Array, b: Array, out: Array, a_t: bool, b_t: bool, add: bool, tf32: bool
    ) -> None:
        """out = op(a) op(b) (+ out), row-major matrices; float32 sums whatever the types.

        cuBLAS counts columns first, so it is asked for the transposed product.
        """
        cupy = _cupy()
        cublas = cupy.cuda.cublas
        m, n = out.shape
        k = a.shape[0] if a_t else a.shape[1]
        one, beta = np.ones(1, np.float32), np.full(1, float(add), np.float32)
        fast = tf32 and a.dtype == np.float32
        cublas.gemmEx(
            cupy.cuda.Device().cublas_handle,
            int(b_t),
            int(a_t),
            n,
            m,
            k,
            one.ctypes.data,
            b.data.ptr,
            _CUDA_TYPES[b.dtype.name],
            b.shape[1],
            a.data.ptr,
            _CUDA_TYPES[a.dtype.name],
            a.shape[1],
            beta.ctypes.data,
            out.data.ptr,
            _CUDA_TYPES[out.dtype.name],
            n,
            _COMPUTE_32F_FAST_TF32 if fast else _COMPUTE_32F,
            -1,
        )


def _cupy() -> Any:
    return importlib.import_module("cupy")


@functools.cache
def _module(source: str, device: int) -> tuple[Any, dict[str, str]]:
    """The loaded cubin of a source, and the mangled names of its kernels."""
    from minires.kernels.cuda.compile import load_or_compile

    capability = _cupy().cuda.Device(device).compute_capability
    if int(capability) < 80:
        raise DeviceError(f"GPU {device} has compute capability {capability}; minires needs 80")
    suffix = "a" if capability == "90" else ""
    path, names = load_or_compile(source, f"sm_{capability}{suffix}")
    return _cupy().RawModule(path=str(path)), names


@functools.cache
def _function(source: str, name: str, device: int, shared: int) -> Any:
    module, names = _module(source, device)
    function = module.get_function(names[name])
    if shared >= _OPT_IN:
        function.max_dynamic_shared_size_bytes = shared
    return function


_current: Any = CupyRuntime()


@contextmanager
def use(runtime: Any) -> Iterator[Any]:
    """Let the launchers work on `runtime` while the context lasts."""
    global _current
    before, _current = _current, runtime
    try:
        yield runtime
    finally:
        _current = before


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """A new array of undefined values in row order, on the device."""
    return _current.empty(shape, np.dtype(dtype))


def constant(values: np.ndarray) -> Array:
    """A copy of host values on the device, made once and kept."""
    return _current.constant(values)


def address(array: Array) -> int:
    """Where the first value of `array` lies."""
    return _current.address(array)


def launch(
    source: str, name: str, grid: Grid, block: Grid, *arguments: Any, shared: int = 0
) -> None:
    """Start kernel `name` of src/`source`.cu with `shared` bytes of dynamic shared memory.

    Arrays go as their address and None as a null pointer, Python integers and truths as int,
    floats as float; for any other type give a NumPy scalar.
    """
    if min(grid) < 1:
        return
    _current.launch(source, name, grid, block, tuple(map(_argument, arguments)), shared)


def product(
    a: Array, b: Array, out: Array, *, a_t: bool = False, b_t: bool = False, add: bool = False
) -> None:
    """out = op(a) op(b), or added to it: row-major matrices, op a transposition if asked for."""
    from minires.kernels.cuda import precision

    _current.product(a, b, out, a_t, b_t, add, precision.current.tf32)


def _argument(value: Any) -> Any:
    if value is None:
        return np.uint64(0)
    if isinstance(value, float) and not isinstance(value, np.generic):
        return np.float32(value)
    if isinstance(value, int):
        return np.int32(value)
    return value
