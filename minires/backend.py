"""Where arrays live, and which code runs on them.

Three things are decided here and nowhere else: the device (CPU or GPU), the array module that
belongs to an array (`numpy` or `cupy`), and, for each operation, whether a fast kernel or the
reference runs. The reference of an operation is marked with `@operation`; a kernel registers
itself under the same name with `@kernel`. A kernel that returns `NotImplemented` declines, and the
reference runs. Arrays of float64 never reach a kernel, so gradient checks prove the mathematics.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minires.errors import DeviceError, UsageError

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

    `precision` is one of `PRECISIONS`; on the CPU it is always fp32.
    """

    threads: int = 1
    conv: str = "auto"
    precision: str = "fp32"


PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
"""Float32; the same with products on tensor cores; and 16-bit activations of two kinds."""


OLDEST_GPU = (7, 5)
"""The compute capability of a T4, which everything but the implicit products compiles for."""

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


# --- the choice of a device -----------------------------------------------------------------


def select_device(
    name: str = "auto", threads: int | None = None, conv: str = "auto", precision: str = "fp32"
) -> Device:
    """Resolve `name` ("auto", "cpu", "gpu" or "gpu:1"), and load the kernels of that device.

    `threads` is the number of CPU threads (default: all cores that this process may use), `conv`
    is "auto" (Winograd where it fits) or "direct", `precision` one of `PRECISIONS`. Raises
    `DeviceError` if a GPU was asked for, or is needed for the precision, and cannot be used,
    `UsageError` for a name or number that means nothing.
    """
    device = _parse_device(name)
    _check_precision(precision, name, device)
    options.threads = _check_threads(threads)
    if conv not in ("auto", "direct"):
        raise UsageError(f"--conv {conv}: unknown; use auto or direct")
    options.conv = conv
    try:
        importlib.import_module(f"minires.kernels.{'cpu' if device.kind == 'cpu' else 'cuda'}")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("minires.kernels"):
            raise
    if device.kind == "gpu":
        importlib.import_module("cupy").cuda.Device(device.index).use()
        cuda_module("precision").set_precision(precision)
    options.precision = precision
    return device


def check_kernels(device: Device, say: Callable[[str], None]) -> None:
    """Before much is computed on a GPU: switch off what computes wrong results there.

    `say` is told in a line what and why; on the CPU nothing happens.
    """
    if device.kind == "gpu":
        cuda_module("self_check").check_rungs(say)


def _check_precision(precision: str, name: str, device: Device) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision}: unknown; use {', '.join(PRECISIONS)}")
    if device.kind == "cpu" and precision != "fp32":
        reason = why_no_gpu() if name == "auto" else "use --device gpu"
        raise DeviceError(f"--precision {precision}: a CPU computes in fp32 alone; {reason}")


def available_cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_threads(threads: int | None) -> int:
    if threads is None:
        return available_cores()
    if threads < 1:
        raise UsageError(f"--threads {threads}: must be at least 1")
    return threads


def _parse_device(name: str) -> Device:
    kind, _, index = name.partition(":")
    if kind not in ("auto", "cpu", "gpu") or (index and (kind != "gpu" or not index.isdigit())):
        raise UsageError(f"--device {name}: unknown; use auto, cpu, gpu or gpu:1")
    if kind == "cpu":
        return CPU
    gpu = Device("gpu", int(index or 0))
    reason = why_no_gpu(gpu.index)
    if reason is None:
        return gpu
    if kind == "auto":
        return CPU
    raise DeviceError(f"--device {name}: {reason}")


@functools.cache
def why_no_gpu(index: int = 0) -> str | None:
    """Why GPU `index` cannot be used, with the fix, in one line; None if it can.

    CuPy imports without a driver, so the test is a tiny kernel that really runs; and the kernels
    of minires need a GPU that is not too old, and the headers of CUDA.
    """
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        if getattr(error, "name", None) == "cupy":
            return (
                "CuPy is not installed; with an NVIDIA GPU: "
                'pip install -e ".[cuda13]" (CUDA 13 driver) or pip install -e ".[cuda12]"'
            )
        return f"CuPy does not load ({_one_line(error)}); reinstall it: pip install -e '.[cuda13]'"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        if index >= count:
            return f"there is no GPU {index}; this machine has {count} (gpu:0 is the first)"
        properties = cupy.cuda.runtime.getDeviceProperties(index)
        found = properties["major"], properties["minor"]
        if found < OLDEST_GPU:
            return (
                f"GPU {index} ({properties['name'].decode()}) has compute capability "
                f"{_dotted(found)}, and minires needs {_dotted(OLDEST_GPU)} (a T4) or later; "
                "use --device cpu"
            )
        with cupy.cuda.Device(index):
            cupy.cuda.Device().synchronize()
            if int((cupy.arange(3) * 2).sum()) != 6:
                return f"GPU {index} computes wrong results; check the driver with nvidia-smi"
    except Exception as error:  # CuPy raises many types; each of them means "not usable"
        return _explain(error)
    return cuda_module("compile").why_not()


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def describe_gpus() -> list[dict[str, Any]]:
    """Name, model, memory (bytes) and compute capability of each GPU; [] where none is usable."""
    if why_no_gpu() is not None:
        return []
    runtime = importlib.import_module("cupy").cuda.runtime
    gpus = []
    for index in range(runtime.getDeviceCount()):
        properties = runtime.getDeviceProperties(index)
        gpus.append(
            {
                "name": f"gpu:{index}",
                "model": properties["name"].decode(),
                "memory": int(properties["totalGlobalMem"]),
                "compute_capability": f"{properties['major']}.{properties['minor']}",
            }
        )
    return gpus


def _explain(error: Exception) -> str:
    text = _one_line(error)
    if "NoDevice" in text:
        return "no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use cpu"
    if "InsufficientDriver" in text or "libcuda" in text:
        return (
            "the NVIDIA driver is missing or too old for this CuPy; install a driver "
            '(nvidia-smi shows it), or for a CUDA 12 driver: pip install -e ".[cuda12]"'
        )
    return f"the GPU cannot be used ({text}); python cli.py info tells more"


def _one_line(error: Exception) -> str:
    first = str(error).strip().splitlines()
    return first[0] if first else type(error).__name__
