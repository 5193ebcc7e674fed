"""Where arrays live, and which code runs on them.

Two things are decided here and nowhere else: the array module that belongs to an array (`numpy` or
`cupy`), and, for each operation, whether a fast kernel or the reference runs; `minires.devices`
chooses the device (CPU or GPU) and sets `options`. The reference of an operation is marked with
`@operation`; a kernel registers itself under the same name with `@kernel`. A kernel that returns
`NotImplemented` declines, and the reference runs. Arrays of float64 never reach a kernel, so
gradient checks prove the mathematics.
"""

from __future__ import annotations

import functools
import importlib
import mmap
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray; CuPy need not be installed


@dataclass(frozen=True)
class Device:
    """A place where arrays live: `kind` is "cpu" or "gpu", `index` counts the GPUs from 0."""

    kind: str = "cpu"
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"gpu:{self.index}"


@dataclass
class Options:
    """What the kernels may ask: `threads` on the CPU, `conv`, "auto" or "direct", and `precision`.

    `processes` is how many processes are to share a batch on the CPU, and the threads; None leaves
    it to what pays.
    `precision` is one of `minires.devices.PRECISIONS`; on the CPU it is always fp32.
    """

    threads: int = 1
    processes: int | None = 1
    conv: str = "auto"
    precision: str = "fp32"


CPU = Device("cpu")
options = Options()


# --- the table: operations, their references and their kernels ------------------------------

OPERATIONS: dict[str, Callable] = {}
_kernels: dict[tuple[str, str], Callable] = {}
_fallbacks: Counter[str] = Counter()
_kernels_enabled = True
_around: Callable[[str, Callable, tuple, dict], Any] | None = None


def operation(reference: Callable) -> Callable:
    """Mark `reference` as the truth about an operation and let kernels override it.

    The returned function has the same signature. Its attribute `reference` is the plain function.
    """
    name = reference.__name__

    def run(*args, **kwargs):
        if _kernels and _kernels_enabled:
            first = _first_array(args)
            if first is not None and first.dtype != np.float64:
                fast = _kernels.get((name, _kind(first)))
                if fast is not None:
                    result = fast(*args, **kwargs)
                    if result is not NotImplemented:
                        return result
                    _fallbacks[name] += 1
        return reference(*args, **kwargs)

    @functools.wraps(reference)
    def dispatch(*args, **kwargs):
        if _around is not None:
            return _around(name, run, args, kwargs)
        return run(*args, **kwargs)

    dispatch.reference = reference
    OPERATIONS[name] = dispatch
    return dispatch


def kernel(name: str, kind: str) -> Callable[[Callable], Callable]:
    """Register the decorated function as the kernel of operation `name` on devices of `kind`."""

    def register(function: Callable) -> Callable:
        _kernels[(name, kind)] = function
        return function

    return register


def has_kernel(name: str, array: Array) -> bool:
    """Whether a kernel stands for operation `name` where `array` lives, and may run."""
    return _kernels_enabled and (name, _kind(array)) in _kernels


class KernelRow(NamedTuple):
    """One row of the table that `info` prints."""

    operation: str
    kind: str
    kernel: str


def kernel_table(kind: str = "cpu") -> list[KernelRow]:
    """Every operation with what runs it on devices of `kind`: a kernel's name or "reference"."""
    rows = []
    for name in sorted(OPERATIONS):
        fast = _kernels.get((name, kind))
        label = "reference" if fast is None else getattr(fast, "label", fast.__module__)
        rows.append(KernelRow(name, kind, label.removeprefix("minires.kernels.")))
    return rows


@contextmanager
def reference_only() -> Iterator[None]:
    """Run every operation on its reference while the context lasts."""
    global _kernels_enabled
    before, _kernels_enabled = _kernels_enabled, False
    try:
        yield
    finally:
        _kernels_enabled = before


def kernels_in_use() -> bool:
    """Whether operations run on kernels: not within `reference_only`."""
    return _kernels_enabled


@contextmanager
def observe_operations(around: Callable[[str, Callable, tuple, dict], Any]) -> Iterator[None]:
    """Hand every call of an operation to `around` while the context lasts.

    `around(name, run, args, kwargs)` makes the call, `run(*args, **kwargs)`, and returns its
    result. The operations that a reference calls in turn come inside its own call.
    """
    global _around
    before, _around = _around, around
    try:
        yield
    finally:
        _around = before


def fallback_counts() -> dict[str, int]:
    """How often a kernel declined since the last reset, by operation."""
    return dict(_fallbacks)


def reset_fallback_counts() -> None:
    """Forget the counts of `fallback_counts`."""
    _fallbacks.clear()


def _first_array(values) -> Array | None:
    """The first array among `values`, looking inside caches (tuples) too."""
    for value in values:
        if isinstance(value, tuple):
            value = _first_array(value)
        if hasattr(value, "dtype") and hasattr(value, "ndim"):
            return value
    return None


# --- arrays ---------------------------------------------------------------------------------


def _kind(array: Array) -> str:
    return "cpu" if isinstance(array, np.ndarray | np.generic) else "gpu"


def array_module(*arrays: Array) -> Any:
    """The module that computes with `arrays`: `numpy`, or `cupy` if one of them is on a GPU."""
    for array in arrays:
        if array is not None and _kind(array) == "gpu":
            return importlib.import_module("cupy")
    return np


def to_host(array: Array) -> np.ndarray:
    """`array` as a NumPy array; one that is there already is returned as it is."""
    return array if _kind(array) == "cpu" else array.get()


def to_device(array: Array, device: Device) -> Array:
    """`array` on `device`; one that is there already is returned as it is."""
    if device.kind == "cpu":
        return to_host(array)
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(device.index):
        return cupy.asarray(array)


class _SharedMemory(mmap.mmap):
    """Memory of `shared_zeros`."""


def shared_zeros(size: int, dtype: Any) -> np.ndarray:
    """A vector of `size` zeros that this process, and those forked from it, all read and write."""
    dtype = np.dtype(dtype)
    try:
        memory = _SharedMemory(-1, max(1, size * dtype.itemsize))
    except OSError as error:
        raise MemoryError(f"no {size * dtype.itemsize / 1e9:.1f} GB of shared memory") from error
    return np.frombuffer(memory, dtype)[:size]


def is_shared(array: np.ndarray) -> bool:
    """Whether an array lies in memory of `shared_zeros`."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, memoryview) and isinstance(array.obj, _SharedMemory)


_scratch: dict[str, tuple[Callable[[], int], Callable[[], None]]] = {}


def report_scratch(kind: str, peak: Callable[[], int], forget: Callable[[], None]) -> None:
    """Tell how much memory the kernels of devices of `kind` keep for themselves.

    `peak()` is the most bytes in use at once since `forget()`.
    """
    _scratch[kind] = (peak, forget)


def scratch_peak_bytes(device: Device) -> int:
    """The most bytes that the kernels' own memory held since `forget_scratch_peak`; 0 without."""
    return _scratch[device.kind][0]() if device.kind in _scratch else 0


def forget_scratch_peak(device: Device) -> None:
    """Start anew with `scratch_peak_bytes`."""
    if device.kind in _scratch:
        _scratch[device.kind][1]()


_fixed_weights: dict[str, Callable[[list[Array]], AbstractContextManager]] = {}


def on_fixed_weights(kind: str, keep: Callable[[list[Array]], AbstractContextManager]) -> None:
    """Let the kernels of devices of `kind` know of weights that keep their values for a while."""
    _fixed_weights[kind] = keep


def fixed_weights(weights: list[Array]) -> AbstractContextManager:
    """A promise to the kernels: `weights` keep their values while the context lasts.

    So a kernel may keep copies of them in the type and the order that suit it; the context gives
    what has to live as long as a graph that was captured in it.
    """
    keep = _fixed_weights.get(_kind(weights[0])) if weights else None
    return nullcontext() if keep is None else keep(weights)


def synchronize(device: Device) -> None:
    """Wait until everything that was started on `device` has finished."""
    if device.kind == "gpu":
        importlib.import_module("cupy").cuda.Device(device.index).synchronize()


def accumulation_dtype(dtype: Any) -> np.dtype:
    """The type that sums over arrays of `dtype` are kept in: float32 for half precision."""
    dtype = np.dtype(dtype)
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype


def activation_dtype(device: Device) -> np.dtype:
    """The type of a batch on `device`: float32, or what the precision makes of it on a GPU."""
    if device.kind == "cpu":
        return np.dtype(np.float32)
    return cuda_module("precision").current.dtype


def cuda_module(name: str) -> Any:
    """A module of the GPU's kernels: they are loaded by name, where a GPU is used."""
    return importlib.import_module(f"minires.kernels.cuda.{name}")


def weight_layout(device: Device) -> tuple[int, int, int, int]:
    """The memory order of convolution weights (O, I, H, W) on `device`, slowest axis first.

    The logical shape stays (O, I, H, W); strides carry the order that suits the kernels:
    (H, W, I, O) on the CPU, (O, H, W, I) on the GPU.
    """
    return (2, 3, 1, 0) if device.kind == "cpu" else (0, 2, 3, 1)
