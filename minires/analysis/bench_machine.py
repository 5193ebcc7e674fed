"""What a number was measured on: the machine, the libraries, and the peak of its matrix product."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from minires.backend import (
    Device,
    activation_dtype,
    array_module,
    cuda_module,
    synchronize,
    to_device,
)
from minires.devices import available_cores, describe_gpus

GEMM_SIZES = (1024, 2048)
GEMM_REPEATS = 5
STREAM_VALUES = 1 << 25
"""Of each array of the bandwidth: 128 MiB, more than any cache holds."""
GPU_GEMM_SIZES, COPY_BYTES, GPU_REPEATS = (4096, 8192), 1 << 29, 10


def machine_facts(threads: int, device: Device) -> dict[str, Any]:
    """The processor, the memory and the versions, ready for JSON."""
    return {
        "cpu": cpu_name(),
        "cores": available_cores(),
        "threads": threads,
        "device": str(device),
        "gpu": next((g["model"] for g in describe_gpus() if g["name"] == str(device)), None),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": _blas(),
        "numba": version_of("numba"),
        "torch": version_of("torch"),
        "cupy": next(filter(None, map(version_of, ("cupy-cuda13x", "cupy-cuda12x", "cupy"))), None),
        "load_average": load_average(),
    }


def version_of(package: str) -> str | None:
    """The installed version of `package`, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def load_average() -> float | None:
    """How many programs wanted a core over the last minute, where the system tells."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _blas() -> str | None:
    """NumPy's BLAS with its version and the kind of core that it chose."""
    threadpoolctl = importlib.import_module("threadpoolctl")
    for library in threadpoolctl.threadpool_info():
        if library.get("user_api") == "blas":
            parts = (library.get("internal_api"), library.get("version"))
            return " ".join(part for part in (*parts, library.get("architecture")) if part)
    return None


def gemm_peak(threads: int, device: Device) -> float:
    """The fastest matrix product found on `device`, in FLOP per second.

    It is one of float32, on a GPU in the precision that was chosen.

    On the CPU both ways to use all threads are tried: one product shared by BLAS's own threads, and
    one product for each of our threads, as the kernels do it.
    """
    if device.kind != "cpu":
        return max(_gpu_product(n, device) for n in GPU_GEMM_SIZES)
    limits = importlib.import_module("threadpoolctl").threadpool_limits
    best = 0.0
    for n in GEMM_SIZES:
        with limits(threads, user_api="blas"):
            best = max(best, _one_product(n, device))
        with limits(1, user_api="blas"):
            best = max(best, _products_side_by_side(n, threads))
    return best


def memory_bandwidth() -> float:
    """Bytes per second that one thread reads and writes together: c = a + b, with large arrays.

    The arrays have been touched before. What the processor reads of c before it writes it is not
    counted.
    """
    a, b, c = (np.full(STREAM_VALUES, 0.5, np.float32) for _ in range(3))
    return 3.0 * a.nbytes / _fastest(lambda: np.add(a, b, out=c))


def _gpu_product(n: int, device: Device) -> float:
    dtype, runtime = activation_dtype(device), cuda_module("runtime")
    a, b = (to_device(np.full((n, n), 0.5).astype(dtype), device) for _ in range(2))
    out = runtime.empty((n, n), dtype)

    def products() -> None:
        for _ in range(GPU_REPEATS):
            runtime.product(a, b, out)
        synchronize(device)

    return GPU_REPEATS * 2.0 * n**3 / _fastest(products)


def copy_peak(device: Device) -> float | None:
    """The bytes per second that a copy in a GPU's memory reads and writes; None on a CPU."""
    if device.kind == "cpu":
        return None
    source = to_device(np.zeros(COPY_BYTES, np.uint8), device)
    target = source.copy()

    def copies() -> None:
        for _ in range(GPU_REPEATS):
            target[...] = source
        synchronize(device)

    return GPU_REPEATS * 2.0 * COPY_BYTES / _fastest(copies)


def _one_product(n: int, device: Device) -> float:
    a, b = (to_device(np.full((n, n), 0.5, np.float32), device) for _ in range(2))
    xp = array_module(a)
    out = xp.empty_like(a)

    def product() -> None:
        xp.matmul(a, b, out=out)
        synchronize(device)

    return 2.0 * n**3 / _fastest(product)


def _products_side_by_side(n: int, threads: int) -> float:
    operands = [np.full((3, n, n), 0.5, np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as executor:

        def products() -> None:
            list(executor.map(lambda o: np.matmul(o[0], o[1], out=o[2]), operands))

        return threads * 2.0 * n**3 / _fastest(products)


def _fastest(function) -> float:
    function()
    seconds = []
    for _ in range(GEMM_REPEATS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
