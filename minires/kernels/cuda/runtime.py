"""How the launchers reach the GPU: memory, launches and matrix products, through CuPy.

The launchers know only the functions at the end of this file. So tests can put another runtime in
CuPy's place: one that counts, or one that runs the same kernels on the CPU.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from minires.backend import Array

Grid = tuple[int, ...]

_OPT_IN = 32 * 1024
"""From so many bytes on, a kernel's dynamic shared memory is asked for before the launch."""


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

    def capability(self) -> int:
        """The compute capability of the current GPU, 90 for 9.0."""
        return int(_cupy().cuda.Device().compute_capability)

    def launch(
        self, source: str, name: str, grid: Grid, block: Grid, arguments: tuple, shared: int
    ) -> None:
        """Start kernel `name` of src/`source`.cu; every argument is an array or a NumPy scalar."""
        device = _cupy().cuda.Device().id
        function = _function(source, name, device, shared)
        function(grid, block, arguments, shared_mem=shared)

    def driver_function(self, name: str) -> int | None:
        """The address of a function of the CUDA driver, None where the driver has no such one."""
        return _driver_function(name)

    def product(
        self, a: Array, b: Array, out: Array, a_t: bool, b_t: bool, add: bool, tf32: bool
    ) -> None:
        """out = op(a) op(b) (+ out), row-major matrices; float32 sums whatever the types."""
        from minires.kernels.cuda.cublas import on_device

        on_device(_cupy().cuda.Device().id).product(a, b, out, a_t, b_t, add, tf32)

    # --- graphs -----------------------------------------------------------------------------

    @contextmanager
    def own_stream(self) -> Iterator[None]:
        """Work on a stream of our own, as capturing needs, and wait for it at the end.

        CuPy keeps freed memory for the stream that had it, even when that is gone (its issue 8068),
        and a pool that runs dry frees its own blocks alone: so what is free goes back first.
        """
        cupy = _cupy()
        cupy.cuda.Device().synchronize()  # what was begun on the default stream is done
        cupy.get_default_memory_pool().free_all_blocks()
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            try:
                yield
            finally:
                stream.synchronize()

    def free_bytes(self) -> int:
        """What the current device can still give, with what CuPy keeps for later."""
        cupy = _cupy()
        cupy.get_default_memory_pool().free_all_blocks()
        return int(cupy.cuda.runtime.memGetInfo()[0])

    def new_memory(self) -> Any:
        """A memory pool that nobody else takes from."""
        return _cupy().cuda.MemoryPool()

    def memory(self, pool: Any) -> AbstractContextManager:
        """Take new arrays from `pool` while the context lasts."""
        return _cupy().cuda.using_allocator(pool.malloc)

    def begin_capture(self) -> None:
        """From now on launches on the current stream are noted, not run."""
        _cupy().cuda.get_current_stream().begin_capture()

    def end_capture(self) -> Any:
        """What was noted, as a graph whose `launch()` runs it on the current stream."""
        return _cupy().cuda.get_current_stream().end_capture()


def _cupy() -> Any:
    return importlib.import_module("cupy")


@functools.cache
def _driver_function(name: str) -> int | None:
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        return ctypes.cast(getattr(driver, name), ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


@functools.cache
def _module(source: str, device: int) -> tuple[Any, dict[str, str]]:
    """The loaded cubin of a source, and the mangled names of its kernels."""
    from minires.kernels.cuda.compile import load_or_compile

    capability = _cupy().cuda.Device(device).compute_capability
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


def current() -> Any:
    """The runtime that the launchers work on."""
    return _current


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


def capability() -> int:
    """The compute capability of the GPU that the launches go to, 90 for 9.0."""
    return _current.capability()


def driver_function(name: str) -> int | None:
    """The address of a function of the CUDA driver, None where the driver has no such one."""
    return _current.driver_function(name)


def launch(
    source: str, name: str, grid: Grid, block: Grid, *arguments: Any, shared: int = 0
) -> None:
    """Start kernel `name` of src/`source`.cu with `shared` bytes of dynamic shared memory.

    Arrays go as their address and None as a null pointer, Python integers and truths as int,
    floats as float; for any other type give a NumPy scalar, and for a struct a NumPy array of one
    record: these go by value.
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
