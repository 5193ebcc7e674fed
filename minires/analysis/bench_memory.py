"""The peak memory of a training step or of inference, each measured in a process of its own.

A process's high-water mark never falls, and several programs in one process share it, so each
contender gets a fresh child. The child imports everything, makes its batch, runs a tiny network
once (which loads and compiles code), and notes its memory; then it builds the model and runs it.
What it needs on top is the peak: weights, gradients, optimizer state, activations and scratch. The
processes that share a batch with it count as well, with the memory that is theirs alone.

From one child to the next PyTorch's peak differs by some tens of MiB, with how its threads come to
share the allocator; that of minires is the same to a few.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from minires.analysis.bench_contenders import make_contender, random_batch
from minires.backend import Device, cuda_module
from minires.devices import select_device

RUNS, GPU_RUNS = 2, 4
"""Runs in the child: PyTorch's optimizer has its state from the second on."""

TIMEOUT = 1800.0


def peak_memory(
    contender: str,
    spec: dict[str, Any],
    mode: str,
    batch_size: int,
    threads: int,
    conv: str,
    device: str = "cpu",
    precision: str = "fp32",
    processes: int | None = None,
) -> int | None:
    """The peak bytes that `contender` needs for `mode`, or None if it can't be told.

    On a GPU it is what the process then holds of the GPU's memory, beyond the libraries' own.
    """
    request = {
        "contender": contender,
        "spec": spec,
        "mode": mode,
        "batch_size": batch_size,
        "threads": threads,
        "conv": conv,
        "device": device,
        "precision": precision,
        "processes": processes,
    }
    code = "from minires.analysis.bench_memory import child; child()"
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env={**os.environ, "PYTHONPATH": path},
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])["peak_memory_bytes"]
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return None


def child() -> None:
    """The child process: read a request from stdin, write one JSON line to stdout."""
    request = json.loads(sys.stdin.read())
    print(json.dumps({"peak_memory_bytes": _measure(**request)}))


def _measure(
    contender: str,
    spec: dict[str, Any],
    mode: str,
    batch_size: int,
    threads: int,
    conv: str,
    device: str,
    precision: str,
    processes: int | None,
) -> int | None:
    place = select_device(device, threads, conv, precision, processes)
    if place.kind == "gpu":
        return _measure_on_gpu(contender, spec, mode, batch_size, threads, place)
    batch = random_batch(batch_size)
    tiny = {**spec, "width": 0.5 * spec["width"]}
    warm = make_contender(contender, tiny, random_batch(2), place, threads)
    warm.prepare(mode)
    warm.run()
    del warm
    if contender.startswith("minires"):
        from minires.kernels.cpu.buffers import pool

        pool.clear()
    gc.collect()
    meter = PeakMeter()
    model = make_contender(contender, spec, batch, place, threads)
    model.prepare(mode)
    for _ in range(RUNS):
        model.run()
    workers = model.network.peak_bytes() if contender.startswith("minires") else 0
    own = meter.peak()
    return None if own is None else own + workers


def _measure_on_gpu(
    contender: str, spec: dict[str, Any], mode: str, batch_size: int, threads: int, device: Device
) -> int:
    """How much less of the GPU is free after some runs; both libraries keep what they once took."""
    runtime = cuda_module("runtime").current()
    with runtime.own_stream():
        tiny = {**spec, "width": 0.5 * spec["width"]}
        warm = make_contender(contender, tiny, random_batch(2), device, threads)
        warm.prepare(mode)
        warm.run()
        if warm.is_torch:
            torch = warm.torch
            del warm
            gc.collect()
            torch.cuda.empty_cache()
        else:
            del warm
            gc.collect()
        before = runtime.free_bytes()
        model = make_contender(contender, spec, random_batch(batch_size), device, threads)
        model.prepare(mode)
        for _ in range(GPU_RUNS):
            model.run()
        return before - runtime.free_bytes()


class PeakMeter:
    """The highest memory use of this process since the meter was made, less what it had then.

    Linux can reset its high-water mark (VmHWM). Elsewhere the mark of the whole life is all there
    is; it is right as long as nothing before needed more.
    """

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._before = _status_bytes("VmRSS")
        if self._before is None:
            self._before = _high_water()

    def peak(self) -> int | None:
        """In bytes; None where the system does not tell."""
        highest = _status_bytes("VmHWM")
        if highest is None:
            highest = _high_water()
        if highest is None or self._before is None:
            return None
        return max(0, highest - self._before)


def _status_bytes(key: str) -> int | None:
    """A field of /proc/self/status; the kernel writes kibibytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _high_water() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
