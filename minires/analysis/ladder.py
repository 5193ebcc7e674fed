"""The ladder: one convolution timed on every rung, from six loops in Python to compiled Winograd.

Each rung is checked against the first, and timed on as many images as it can take in a few seconds:
one for the loops, a whole batch for the fast ones. Nothing is extrapolated: the table shows the
measured time divided by the images that were really computed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from minires.analysis import ladder_rungs as rungs
from minires.analysis.bench_check import relative_error
from minires.analysis.bench_contenders import available_loops, choose_loops, loops_restored
from minires.analysis.bench_machine import (
    gemm_peak,
    load_average,
    machine_facts,
    memory_bandwidth,
)
from minires.backend import CPU, options
from minires.devices import select_device
from minires.errors import MiniresError

TOLERANCE = 1e-5
"""Relative error against the loops, which sum in float64; Winograd's is about 1e-6."""

ROUNDS, LOOP_ROUNDS = 7, 3


@dataclass(frozen=True)
class Shape:
    """The convolution: channels in and out, the side of the square image, and the batch."""

    channels: int = 64
    size: int = 32
    images: int = 128

    @property
    def flops(self) -> float:
        """The arithmetic for one image, done directly; a multiply-add is two operations."""
        return 2.0 * 9 * self.channels**2 * self.size**2


@dataclass(frozen=True)
class Rung:
    """One way to compute it.

    `run` takes arrays in the order that `layout` names, of `images` images; `reason` says in a few
    words why it is faster than the rung before. `loops` and `threads` are those of the kernels.
    """

    name: str
    reason: str
    run: Callable[[Any, Any], Any]
    layout: str
    images: int
    loops: str = "numpy"
    threads: int = 1


def make_rungs(shape: Shape, threads: int, compiled: bool) -> list[Rung]:
    """The rungs that can be climbed here: the compiled ones need numba."""
    few, many = min(4, shape.images), shape.images
    found = [
        Rung("six loops in Python", "the definition", rungs.six_loops, "lists", 1),
        Rung(
            "einsum over windows",
            "one call into compiled code",
            rungs.einsum_over_windows,
            "nchw",
            few,
        ),
        Rung("im2col and GEMM", "each loaded number is used often", rungs.im2col, "nchw", many),
        Rung(
            "tiled im2col, (H, W, N, C)",
            "pieces stay in the cache, runs are long",
            rungs.tiled_im2col,
            "hwnc",
            many,
        ),
        Rung(
            "Winograd in NumPy", "a quarter of the multiplications", rungs.winograd, "hwnc", many
        ),
    ]
    kernel = rungs.kernel_winograd
    if compiled:
        reason = "additions stay in the first cache"
        found.append(Rung("Winograd with numba", reason, kernel, "hwnc", many, "numba"))
    if threads > 1:
        loops = "numba" if compiled else "numpy"
        name = f"the same on {threads} threads" if compiled else f"kernel on {threads} threads"
        found.append(Rung(name, "all cores", kernel, "hwnc", many, loops, threads))
    return found


def climb(
    shape: Shape = Shape(),  # noqa: B008 (frozen)
    threads: int | None = None,
    rounds: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Check and time every rung; returns the report, ready for JSON.

    `rungs` holds for each: name, reason, images, threads, seconds_per_image, flops_per_second (of
    direct convolution, so Winograd may pass the peak of the matrix product), gain over the rung
    before, and its relative error. Raises `MiniresError` if a rung computes something else.
    """
    select_device("cpu", threads)
    threads = options.threads
    with loops_restored(CPU):
        compiled = "numba" in available_loops(CPU)
        ladder = make_rungs(shape, threads, compiled)
        random = np.random.default_rng(0)
        x = random.standard_normal((shape.images, shape.channels, shape.size, shape.size))
        weight = random.standard_normal((shape.channels, shape.channels, 3, 3))
        x, weight = x.astype(np.float32), weight.astype(np.float32) / (9 * shape.channels) ** 0.5
        inputs = {r.name: arrange(x[: r.images], weight, r.layout) for r in ladder}
        errors = _check(ladder, inputs, say)
        seconds = _time(ladder, inputs, rounds, say)
    say("measuring the peak of the matrix product and of the memory")
    return {
        "shape": {**vars(shape), "flops_per_image": shape.flops},
        "machine": {
            **machine_facts(threads, CPU),
            "gemm_flops_per_second_one_thread": gemm_peak(1, CPU),
            "memory_bytes_per_second_one_thread": memory_bandwidth(),
            "load_average_after": load_average(),
        },
        "rungs": _rows(shape, ladder, seconds, errors),
    }


def arrange(x: np.ndarray, weight: np.ndarray, layout: str) -> tuple[Any, Any]:
    """x (N, C, H, W) and weight (K, C, 3, 3) as a rung wants them: this is not timed.

    The lists hold one padded image.
    """
    if layout == "lists":
        return np.pad(x[0], ((0, 0), (1, 1), (1, 1))).tolist(), weight.tolist()
    if layout == "hwnc":
        return (
            np.ascontiguousarray(x.transpose(2, 3, 0, 1)),
            np.ascontiguousarray(weight.transpose(2, 3, 1, 0)),
        )
    return x, weight


def as_nchw(y: Any, layout: str) -> np.ndarray:
    """The output of a rung as (N, K, H, W)."""
    if layout == "lists":
        return np.array(y)[None]
    return y.transpose(2, 3, 0, 1) if layout == "hwnc" else y


@contextmanager
def _set_for(rung: Rung) -> Iterator[None]:
    """The kernels' loops and threads as `rung` has them."""
    before = options.threads
    choose_loops(rung.loops)
    options.threads = rung.threads
    try:
        yield
    finally:
        options.threads = before


def _run(rung: Rung, inputs: dict[str, tuple]) -> Any:
    with _set_for(rung):
        return rung.run(*inputs[rung.name])


def _check(
    ladder: list[Rung], inputs: dict[str, tuple], say: Callable[[str], None]
) -> dict[str, float]:
    """The relative error of each rung; this is also its warm-up.

    The loops judge the first image of all; the images after it are judged by im2col, which the
    loops have judged.
    """
    errors, judges = {}, []
    for rung in ladder:
        say(f"checking {rung.name}")
        y = as_nchw(_run(rung, inputs), rung.layout)
        errors[rung.name] = max(
            (relative_error(y[: len(judge)], judge[: len(y)]) for judge in judges), default=0.0
        )
        if errors[rung.name] > TOLERANCE:
            raise MiniresError(
                f"{rung.name} does not compute the convolution: relative error "
                f"{errors[rung.name]:.1e}, allowed {TOLERANCE:.0e}"
            )
        if rung.run in (rungs.six_loops, rungs.im2col):
            judges.append(np.array(y))
    return errors


def _time(
    ladder: list[Rung],
    inputs: dict[str, tuple],
    rounds: int | None,
    say: Callable[[str], None],
) -> dict[str, float]:
    """The median seconds of each rung, taken in turns; the loops run fewer times."""
    rounds = rounds or ROUNDS
    seconds: dict[str, list[float]] = {rung.name: [] for rung in ladder}
    for number in range(rounds):
        say(f"round {number + 1}/{rounds}")
        for rung in ladder:
            if rung.layout == "lists" and number >= LOOP_ROUNDS:
                continue
            with _set_for(rung):
                start = time.perf_counter()
                rung.run(*inputs[rung.name])
                seconds[rung.name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _rows(
    shape: Shape, ladder: list[Rung], seconds: dict[str, float], errors: dict[str, float]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for rung in ladder:
        per_image = seconds[rung.name] / rung.images
        rows.append(
            {
                "name": rung.name,
                "reason": rung.reason,
                "images": rung.images,
                "threads": rung.threads,
                "seconds_per_image": per_image,
                "flops_per_second": shape.flops / per_image,
                "gain": rows[-1]["seconds_per_image"] / per_image if rows else None,
                "relative_error": errors[rung.name],
            }
        )
    return rows
