"""Where the time of a training step goes: the share of each operation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minires.analysis.bench_contenders import TRAINING, MiniresContender
from minires.backend import Device, kernel_table, observe_operations, synchronize
from minires.functional.conv import Conv2dCache, conv_output_size
from minires.functional.fused import ConvBNReLUCache

STEPS = 3

OTHER = "(between the operations)"
"""What the step spends outside all operations: Python, gradients accumulated, layers entered."""


@dataclass
class Tally:
    """The calls of one operation, the seconds in it without the operations that it called, for a
    convolution its arithmetic in FLOP, as if done directly, and the bytes of all arrays that went
    in and came out, each once: the least that an operation on its own can move."""

    calls: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0

    def add(self, seconds: float, flops: float, moved: float) -> None:
        """Take one call into account."""
        self.calls += 1
        self.seconds += seconds
        self.flops += flops
        self.bytes += moved

    def share_of_roof(self, peak: float, bandwidth: float | None) -> float | None:
        """The least time that the arithmetic or the traffic takes, by the time that it took."""
        if bandwidth is None or not self.seconds:
            return None
        return max(self.flops / peak, self.bytes / bandwidth) / self.seconds


class OperationTimer:
    """An observer of operations that adds up their time, by name and by a convolution's geometry.

    The operations that a reference calls in turn count for themselves and not for the caller.
    """

    def __init__(self, device: Device) -> None:
        self.by_name: dict[str, Tally] = {}
        self.by_geometry: dict[tuple[str, str], Tally] = {}
        self._device = device
        self._inner = [0.0]

    def __call__(self, name: str, run: Callable, args: tuple, kwargs: dict) -> Any:
        self._inner.append(0.0)
        start = time.perf_counter()
        try:
            result = run(*args, **kwargs)
            synchronize(self._device)
        finally:
            elapsed = time.perf_counter() - start
            inner = self._inner.pop()
            self._inner[-1] += elapsed
        convolution = convolution_in(args, result)
        flops = 0.0 if convolution is None else work(convolution, name, args, kwargs)
        moved = traffic(args, kwargs, result)
        self.by_name.setdefault(name, Tally()).add(elapsed - inner, flops, moved)
        if convolution is not None:
            key = (name, geometry(convolution))
            self.by_geometry.setdefault(key, Tally()).add(elapsed - inner, flops, moved)
        return result


def convolution_in(args: tuple, result: Any) -> Conv2dCache | None:
    """The convolution that an operation did, from the cache that it took or returned."""
    returned = result if isinstance(result, tuple) else (result,)
    for value in (*args, *returned):
        if isinstance(value, ConvBNReLUCache):
            return value.conv
        if isinstance(value, Conv2dCache):
            return value
    return None


def geometry(convolution: Conv2dCache) -> str:
    """Kernel, stride, channels in and out, size of the input, such as `3x3/2 64>128 at 32x32`."""
    k, c, kh, kw = convolution.weight.shape
    over = f"/{convolution.stride}" if convolution.stride != 1 else ""
    return f"{kh}x{kw}{over} {c}>{k} at {convolution.x.shape[2]}x{convolution.x.shape[3]}"


def work(convolution: Conv2dCache, name: str, args: tuple, kwargs: dict) -> float:
    """The FLOP of one call, counted as direct convolution: forward one product, backward two.

    Backward it is one where the gradient of x is not asked for (the argument after the cache).
    """
    x, (k, c, kh, kw) = convolution.x, convolution.weight.shape
    p, q = (
        conv_output_size(size, side, convolution.stride, convolution.padding)
        for size, side in zip(x.shape[2:], (kh, kw), strict=True)
    )
    once = 2.0 * x.shape[0] * p * q * k * c * kh * kw
    if not name.endswith("_backward"):
        return once
    need_grad_x = args[2] if len(args) > 2 else kwargs.get("need_grad_x", True)
    return 2 * once if need_grad_x else once


def traffic(*values: Any) -> int:
    """The bytes of all arrays in tuples and dictionaries; arrays on the same memory count once."""
    sizes: dict[int, int] = {}
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, tuple):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
        elif hasattr(value, "nbytes") and hasattr(value, "strides"):
            place = value.data.ptr if hasattr(value.data, "ptr") else value.ctypes.data
            sizes[place] = max(sizes.get(place, 0), int(value.nbytes))
    return sum(sizes.values())


def operation_shares(
    contender: MiniresContender, peak: float = 1.0, bandwidth: float | None = None
) -> dict[str, Any]:
    """The share of each operation in a training step of `contender`, largest first.

    The step runs op by op, and the device is waited for after each operation; `peak` and
    `bandwidth`, FLOP and bytes per second, make the roof of a GPU.
    Of processes that share the batch it is this one's: the operations on its images.
    Returns seconds_per_step, `operations` (operation, kernel, calls, seconds, share, each for one
    step) and `convolutions` (operation, geometry, calls, seconds, share, flops_per_second).
    """
    contender.prepare(TRAINING)
    contender.step()
    contender.finish()
    timer = OperationTimer(contender.device)
    start = time.perf_counter()
    with observe_operations(timer):
        for _ in range(STEPS):
            contender.step()
            contender.finish()
    total = time.perf_counter() - start
    kernels = {row.operation: row.kernel for row in kernel_table(contender.device.kind)}

    def row(tally: Tally, **names: str) -> dict[str, Any]:
        return {
            **names,
            "calls": tally.calls / STEPS,
            "seconds": tally.seconds / STEPS,
            "share": tally.seconds / total,
            "share_of_roof": tally.share_of_roof(peak, bandwidth),
        }

    inside = sum(tally.seconds for tally in timer.by_name.values())
    timer.by_name[OTHER] = Tally(STEPS, total - inside)
    operations = [
        row(tally, operation=name, kernel=kernels.get(name, ""))
        for name, tally in timer.by_name.items()
    ]
    convolutions = [
        {
            **row(tally, operation=name, geometry=where),
            "flops_per_second": tally.flops / tally.seconds,
        }
        for (name, where), tally in timer.by_geometry.items()
    ]
    return {
        "seconds_per_step": total / STEPS,
        "operations": sorted(operations, key=lambda r: -r["seconds"]),
        "convolutions": sorted(convolutions, key=lambda r: -r["seconds"]),
    }
