"""The choice of a device: which there are, why one cannot be used, and what it is asked to do."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from minires.backend import CPU, Device, cuda_module, options
from minires.errors import DeviceError, UsageError

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
"""Float32; the same with products on tensor cores; and 16-bit activations of two kinds."""

OLDEST_GPU = (7, 5)
"""The compute capability of a T4, which everything but the implicit products compiles for."""


def select_device(
    name: str = "auto",
    threads: int | None = None,
    conv: str = "auto",
    precision: str = "fp32",
    processes: int | None = None,
) -> Device:
    """Resolve `name` ("auto", "cpu", "gpu" or "gpu:1"), and load the kernels of that device.

    `threads` is the number of CPU threads (default: all cores that this process may use), `conv`
    is "auto" (Winograd where it fits) or "direct", `precision` one of `PRECISIONS`. `processes` is
    how many processes share a batch and the threads on the CPU (default: what pays). Raises
    `DeviceError` if a GPU was asked for, or is needed for the precision, and cannot be used,
    `UsageError` for a name or number that means nothing.
    """
    device = _parse_device(name)
    _check_precision(precision, name, device)
    options.threads = _check_threads(threads)
    options.processes = _check_processes(processes, device)
    if conv not in ("auto", "direct"):
        raise UsageError(f"--conv {conv}: unknown; use auto or direct")
    options.conv = conv
    try:
        importlib.import_module(f"minires.kernels.{'cpu' if device.kind == 'cpu' else 'cuda'}")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("minires.kernels"):
            raise
        options.processes = 1  # the reference knows of no others
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


def can_fork() -> bool:
    """Whether a process that has computed can be forked and both go on.

    On macOS a forked process may not use some of the system's libraries; Windows has no fork.
    """
    return sys.platform == "linux" and hasattr(os, "fork")


def _check_processes(processes: int | None, device: Device) -> int | None:
    if processes is not None and processes < 1:
        raise UsageError(f"--processes {processes}: must be at least 1")
    if device.kind == "gpu" or not can_fork():
        return 1
    return None if processes is None else min(processes, options.threads)


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
