"""The benchmark's report for people: tables on stdout."""

from __future__ import annotations

from typing import Any

from minires.analysis.bench_contenders import INFERENCE, TRAINING

SMALL_SHARE = 0.005
CONVOLUTION_ROWS = 12
BUSY = 0.7
"""A load average above this share of the cores means that something else ran too."""


def print_report(report: dict[str, Any]) -> None:
    """Print what `run_benchmark` returned."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    machine = report["machine"]
    console.print(
        f"{report['model']}, batch {report['batch_size']}, {report['precision']}, "
        f"on {_where(machine)}, "
        f"{machine['threads']} of {machine['cores']} cores{_processes(report)}; "
        f"{report['rounds']} rounds in turns, medians",
        soft_wrap=True,
    )
    console.print(_versions(machine), soft_wrap=True)
    for mode in (TRAINING, INFERENCE):
        rows = [row for row in report["results"] if row["mode"] == mode]
        if rows:
            console.print(_result_table(mode, rows, report))
    for name, shares in report["operations"].items():
        console.print(_share_table(name, shares))
    fastest, shares = min(
        report["operations"].items(), key=lambda item: item[1]["seconds_per_step"]
    )
    console.print(_convolution_table(fastest, shares, machine["gemm_flops_per_second"]))
    console.print(_check_line(report["checks"]), soft_wrap=True)
    for line in (*_data_lines(report["data"]), *report["notes"], *_warnings(report)):
        console.print(line, soft_wrap=True, markup=False)


def _processes(report: dict[str, Any]) -> str:
    many = report.get("processes", 1)  # records of before there were any have none
    return f" in {many} processes" if many > 1 else ""


def _where(machine: dict[str, Any]) -> str:
    """The processor, or the GPU and the processor beside it."""
    return f"{machine['gpu']}, {machine['cpu']}" if machine.get("gpu") else machine["cpu"]


def _versions(machine: dict[str, Any]) -> str:
    names = ("numpy", "numba", "torch")
    parts = [f"{name} {machine[name]}" for name in names if machine[name]]
    peak = machine["gemm_flops_per_second"] / 1e9
    bandwidth = machine["copy_bytes_per_second"]
    copies = "" if bandwidth is None else f", copies {bandwidth / 1e9:,.0f} GB/s"
    blas = machine["blas"]
    return f"{', '.join(parts)}; {blas}; matrix product peak {peak:,.0f} GFLOP/s{copies}"


def _result_table(mode: str, rows: list[dict[str, Any]], report: dict[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    what = "forward, loss, backward, update" if mode == TRAINING else "forward pass, eval mode"
    table = Table(title=f"{mode}: {what}", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True, min_width=max(len(row["name"]) for row in rows))
    against = any(row["ratio_to_torch"] is not None for row in rows)
    compiled = any(row["ratio_to_torch_compile"] is not None for row in rows)
    headings = ["images/s", "ms/step"]
    headings += ["to PyTorch"] * against + ["to compiled"] * compiled
    headings += ["memory", "GFLOP/s", "of GEMM peak"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        rate = row["images_per_second"]
        cells = [row["name"], f"{rate:,.1f}", f"{1000 * report['batch_size'] / rate:,.1f}"]
        cells += [_ratio(row["ratio_to_torch"])] * against
        cells += [_ratio(row["ratio_to_torch_compile"])] * compiled
        memory = row["peak_memory_bytes"]
        cells.append("-" if memory is None else f"{memory / 2**20:,.0f} MiB")
        cells += [f"{row['flops_per_second'] / 1e9:,.0f}", f"{row['share_of_gemm_peak']:.0%}"]
        table.add_row(*cells, style="bold" if row["name"].startswith("minires") else None)
    return table


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share_table(name: str, shares: dict[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"where the training step of {name} goes", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("operation")
    table.add_column("runs on")
    roof = any(row["share_of_roof"] is not None for row in shares["operations"])
    for heading in ("calls", "ms", "share", *(["of the roof"] if roof else [])):
        table.add_column(heading, justify="right")
    for row in shares["operations"]:
        if row["share"] >= SMALL_SHARE:
            cells = [f"{row['calls']:.0f}", f"{1000 * row['seconds']:,.1f}", f"{row['share']:.1%}"]
            cells += [f"{row['share_of_roof'] or 0.0:.0%}"] * roof
            table.add_row(row["operation"], row["kernel"], *cells)
    rest = [row for row in shares["operations"] if row["share"] < SMALL_SHARE]
    if rest:
        seconds = sum(row["seconds"] for row in rest)
        share = sum(row["share"] for row in rest)
        table.add_row(
            f"{len(rest)} smaller ones", "", "", f"{1000 * seconds:,.1f}", f"{share:.1%}"
        )
    return table


def _convolution_table(name: str, shares: dict[str, Any], peak: float) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"the costliest convolutions of {name}, with what is fused to them",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("operation")
    table.add_column("convolution")
    for heading in ("calls", "ms", "share", "GFLOP/s", "of GEMM peak"):
        table.add_column(heading, justify="right")
    for row in shares["convolutions"][:CONVOLUTION_ROWS]:
        table.add_row(
            row["operation"],
            row["geometry"],
            f"{row['calls']:.0f}",
            f"{1000 * row['seconds']:,.1f}",
            f"{row['share']:.1%}",
            f"{row['flops_per_second'] / 1e9:,.0f}",
            f"{row['flops_per_second'] / peak:.0%}",
        )
    return table


def _check_line(checks: dict[str, list[dict[str, Any]]]) -> str:
    """The checks in one sentence: the worst error beside its tolerance, and what float32 allows."""
    judged = [c for found in checks.values() for c in found if c["tolerance"] is not None]
    worst = max(judged, key=lambda c: c["error"] / c["tolerance"])
    free = max(_error(found, "network: gradients") for found in checks.values())
    reference = max(_error(found, "float32 reference: gradients") for found in checks.values())
    return (
        f"checked against the float64 reference: {len(judged)} comparisons passed, the nearest to "
        f"its limit {worst['name']} (relative error {worst['error']:.0e}, allowed "
        f"{worst['tolerance']:.0e}); with ReLUs free to switch the gradient is off by {free:.1e}, "
        f"that of the float32 reference by {reference:.1e}"
    )


def _error(found: list[dict[str, Any]], name: str) -> float:
    return next(check["error"] for check in found if check["name"] == name)


def _data_lines(data: dict[str, Any] | None) -> list[str]:
    if data is None:
        return []
    return [
        f"data path: {data['images_per_second']:,.0f} images/s, "
        f"{data['share_of_epoch']:.1%} of a training epoch"
    ]


def _warnings(report: dict[str, Any]) -> list[str]:
    machine, lines = report["machine"], []
    if report["fallbacks"]:
        listed = ", ".join(f"{k} {v} times" for k, v in sorted(report["fallbacks"].items()))
        lines.append(f"warning: kernels declined and the reference ran: {listed}")
    load = machine["load_average"]
    if load is not None and load > BUSY * machine["cores"]:
        lines.append(
            f"warning: the machine was busy before the run (load average {load}); "
            "rates are low, ratios less certain"
        )
    return lines
