"""The benchmark, whole: check, time, weigh, and put everything into one report."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from minires.analysis.bench_check import CheckResult, check_model
from minires.analysis.bench_contenders import (
    COMPILE_MODES,
    INFERENCE,
    LAYOUTS,
    TRAINING,
    Contender,
    MiniresContender,
    TorchContender,
    Unavailable,
    available_loops,
    choose_loops,
    import_torch,
    loops_restored,
    random_batch,
)
from minires.analysis.bench_data import data_path
from minires.analysis.bench_machine import copy_peak, gemm_peak, load_average, machine_facts
from minires.analysis.bench_memory import peak_memory
from minires.analysis.bench_operations import operation_shares
from minires.analysis.bench_timing import Timings, time_contenders
from minires.backend import Device, cuda_module, fallback_counts, options, reset_fallback_counts
from minires.devices import check_kernels, select_device, why_no_gpu
from minires.errors import MiniresError
from minires.models import build, summarize


@dataclass(frozen=True)
class BenchConfig:
    """What to measure; the fields are the options of the command.

    `compile` None: on a GPU.
    """

    model: str = "resnet18"
    batch_size: int = 128
    device: str = "auto"
    threads: int | None = None
    processes: int | None = None
    conv: str = "auto"
    precision: str = "fp32"
    against: str | None = None
    loops: str = "auto"
    rounds: int | None = None
    compile: bool | None = None
    inference: bool = True
    memory: bool = True
    data: bool = False
    strict: bool = False


def run_benchmark(config: BenchConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """The report, ready for JSON; `say` is told what is going on, a line at a time.

    Raises `MiniresError` where the kernels disagree with the reference, and, with `strict`, where
    a kernel declined and the reference ran.
    """
    device = select_device(
        config.device, config.threads, config.conv, config.precision, config.processes
    )
    spec = build(config.model).spec
    notes: list[str] = []
    check_kernels(device, notes.append)
    reset_fallback_counts()
    with loops_restored(device), _stream(device):
        variants = available_loops(device, config.loops)
        checks = _check(config, spec, device, variants, say)
        refuse_fallbacks(config.strict)
        return _Run(config, spec, device, variants, say, notes).report(checks)


def _stream(device: Device) -> AbstractContextManager:
    """On a GPU, the stream that graphs need."""
    if device.kind == "cpu":
        return nullcontext()
    return cuda_module("runtime").current().own_stream()


def _check(
    config: BenchConfig,
    spec: dict[str, Any],
    device: Device,
    variants: list[str | None],
    say: Callable[[str], None],
) -> dict[str, list[CheckResult]]:
    """The checks of each variant; `MiniresError` names the first that fails."""
    checks: dict[str, list[CheckResult]] = {}
    for loops in variants:
        name = contender_name(loops)
        say(f"checking {name} against the reference")
        if loops is not None:
            choose_loops(loops)
        checks[name] = check_model(spec, device, config.batch_size)
        for check in checks[name]:
            if not check.passed:
                raise MiniresError(
                    f"{name}: the kernels disagree with the reference in {check.name}: relative "
                    f"error {check.error:.1e}, allowed {check.tolerance:.0e}; nothing was timed"
                )
    return checks


def contender_name(loops: str | None) -> str:
    """How the variant with these loops is called in the report."""
    return "minires" if loops is None else f"minires-{loops}"


def refuse_fallbacks(strict: bool) -> None:
    """With `strict`, raise `MiniresError` if any kernel declined since the counts were reset."""
    counts = fallback_counts()
    if strict and counts:
        listed = ", ".join(f"{name} {count} times" for name, count in sorted(counts.items()))
        raise MiniresError(f"--strict: kernels declined and the reference ran: {listed}")


class _Run:
    """One run of the benchmark after the checks."""

    def __init__(
        self,
        config: BenchConfig,
        spec: dict[str, Any],
        device: Device,
        variants: list[str | None],
        say: Callable[[str], None],
        notes: list[str],
    ) -> None:
        self.config, self.spec, self.device, self.say = config, spec, device, say
        self.threads = options.threads
        self.notes = notes
        if config.device == "auto" and device.kind == "cpu":
            self.notes.append(f"no GPU: {why_no_gpu()}")
        self.modes = [TRAINING, INFERENCE] if config.inference else [TRAINING]
        self.machine = machine_facts(self.threads, device)
        batch = random_batch(config.batch_size)
        self.ours = [MiniresContender(spec, batch, device, loops) for loops in variants]
        self.contenders: list[Contender] = [*self.ours, *self._torch_contenders(batch)]

    def _torch_contenders(self, batch) -> list[TorchContender]:
        """PyTorch in each layout, as is and (with --compile) compiled; none where it can't run."""
        if self.config.against is None:
            return []
        found = []
        try:
            import_torch()
            for layout, compiled in torch_variants(self.device, self.config.compile):
                found.append(
                    TorchContender(
                        self.spec,
                        batch,
                        self.device,
                        self.threads,
                        layout,
                        compiled,
                        self.config.precision,
                    )
                )
        except Unavailable as error:
            self.notes.append(f"no comparison with PyTorch: {error}")
        return found

    def report(self, checks: dict[str, list[CheckResult]]) -> dict[str, Any]:
        """Time everything and gather it."""
        self.say("measuring the peak of the matrix product")
        peak = gemm_peak(self.threads, self.device)
        bandwidth = copy_peak(self.device)
        timings = time_contenders(self.contenders, self.modes, self.config.rounds, self.say)
        self.notes += [f"{name} left out: {why}" for name, why in timings.dropped.items()]
        results = self._results(timings, peak)
        operations = {}
        for contender in self.ours:
            self.say(f"sharing out the step of {contender.name}")
            operations[contender.name] = operation_shares(contender, peak, bandwidth)
            self.notes += contender.notes
        refuse_fallbacks(self.config.strict)
        return {
            "model": self.spec["name"],
            "batch_size": self.config.batch_size,
            "conv": self.config.conv,
            "precision": self.config.precision,
            "processes": self.ours[0].network.processes,
            "rounds": len(next(iter(timings.seconds.values()))),
            "machine": {
                **self.machine,
                "gemm_flops_per_second": peak,
                "copy_bytes_per_second": bandwidth,
                "load_average_after": load_average(),
            },
            "checks": {n: [c.to_dict() for c in found] for n, found in checks.items()},
            "results": results,
            "operations": operations,
            "fallbacks": fallback_counts(),
            "data": self._data(timings) if self.config.data else None,
            "notes": self.notes,
        }

    # --- results ----------------------------------------------------------------------------

    def _results(self, timings: Timings, peak: float) -> list[dict[str, Any]]:
        flops = flops_per_image(self.spec)
        rows = []
        for mode in self.modes:
            eager, compiled = (
                timings.fastest([c.name for c in self.contenders if c.is_torch and test(c)], mode)
                for test in (lambda c: not c.is_compiled, lambda c: c.is_compiled)
            )
            for contender in self.contenders:
                if (contender.name, mode) not in timings.seconds:
                    continue
                seconds = timings.seconds[contender.name, mode]
                per_image = statistics.median(seconds) / self.config.batch_size
                rows.append(
                    {
                        "name": contender.name,
                        "model": self.spec["name"],
                        "mode": mode,
                        "images_per_second": 1 / per_image,
                        "ratio_to_torch": _ratio(timings, contender.name, eager, mode),
                        "ratio_to_torch_compile": _ratio(timings, contender.name, compiled, mode),
                        "peak_memory_bytes": self._memory(contender, mode),
                        "flops_per_second": flops[mode] / per_image,
                        "share_of_gemm_peak": flops[mode] / per_image / peak,
                        "seconds": seconds,
                    }
                )
        return rows

    def _memory(self, contender: Contender, mode: str) -> int | None:
        if not self.config.memory or contender.is_compiled:
            return None
        self.say(f"peak memory of {contender.name}, {mode}")
        config = self.config
        return peak_memory(
            contender.name,
            self.spec,
            mode,
            config.batch_size,
            self.threads,
            config.conv,
            str(self.device),
            config.precision,
            config.processes,
        )

    def _data(self, timings: Timings) -> dict[str, Any]:
        """The data path beside the fastest of our training steps."""
        best = min(self.ours, key=lambda c: timings.median(c.name, TRAINING))
        best.prepare(TRAINING)  # its loops, where the data path has a compiled kernel too
        per_image = timings.median(best.name, TRAINING) / self.config.batch_size
        return data_path(self.config.batch_size, self.device, per_image, self.say)


def torch_variants(device: Device, compile: bool | None) -> list[tuple[str, str | None]]:
    """The layouts of PyTorch, and the modes of torch.compile, that a device is timed with.

    On a GPU every mode in the layout that its tensor cores want; on a CPU, both layouts.
    """
    variants: list[tuple[str, str | None]] = [(layout, None) for layout in LAYOUTS]
    if device.kind == "gpu" and compile is not False:
        return variants + [("channels_last", mode) for mode in COMPILE_MODES]
    return variants + [(layout, "default") for layout in LAYOUTS] * bool(compile)


def _ratio(timings: Timings, name: str, other: str | None, mode: str) -> float | None:
    return None if other is None else timings.paired_ratio(name, other, mode)


def flops_per_image(spec: dict[str, Any]) -> dict[str, float]:
    """The work on one image in each mode, counted as if every convolution were done directly.

    A multiply-add is two operations. Training costs a forward pass and twice as much backward, but
    for the gradient of the pixels, which nobody needs.
    """
    summary = summarize(build(**spec))
    forward = 2.0 * summary.multiply_adds
    first = 2.0 * next(s.multiply_adds for s in summary.layers if s.kind == "Conv2d")
    return {INFERENCE: forward, TRAINING: 3 * forward - first}
