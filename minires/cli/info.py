"""`info`: what this machine has, what minires uses of it, and why not the rest."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import click

from minires.cli.json_output import print_json

PACKAGES = (
    *("numpy", "click", "rich", "matplotlib"),
    *("safetensors", "pooch", "threadpoolctl", "pillow"),
)
CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


@click.command()
@click.option("--device", metavar="NAME", default="auto", help="auto, cpu, gpu or gpu:1.")
@click.option("--threads", type=int, metavar="N", show_default="all cores", help="CPU threads.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    envvar="MINIRES_DATA",
    show_default="./data",
    help="Folder that holds the data.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
def command(device: str, threads: int | None, data_dir: Path | None, as_json: bool) -> None:
    """Show devices, libraries, data and fast kernels, and why something is not used."""
    report = _report(device, threads, data_dir)
    if as_json:
        print_json(report)
    else:
        _show(report)


def _report(device_name: str, threads: int | None, data_dir: Path | None) -> dict[str, Any]:
    from minires import __version__, backend, devices

    device = devices.select_device(device_name, threads)
    import minires.functional  # noqa: F401  fills the table of operations

    reason = devices.why_no_gpu()
    return {
        "minires": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": {"usable": devices.available_cores(), "all": os.cpu_count()},
        "device": str(device),
        "threads": backend.options.threads,
        "processes": backend.options.processes or backend.options.threads,
        "gpus": devices.describe_gpus(),
        "why_no_gpu": reason,
        "blas": _blas(),
        "packages": {name: _version(name) for name in PACKAGES},
        "optional": {"cupy": _cupy(reason), "numba": _numba()},
        "data": {name: _data(name, data_dir) for name in ("cifar10", "cifar100", "shapes")},
        "kernels": [row._asdict() for row in backend.kernel_table(device.kind)],
        "fallbacks": backend.fallback_counts(),
    }


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _blas() -> list[dict[str, Any]]:
    """The matrix libraries that NumPy loaded, and their threads while minires computes."""
    from threadpoolctl import threadpool_info

    return [
        {
            "library": library["internal_api"],
            "version": library["version"],
            "architecture": library.get("architecture"),
            "threads": library["num_threads"],
        }
        for library in threadpool_info()
        if library["user_api"] == "blas"
    ]


def _cupy(reason: str | None) -> dict[str, Any]:
    version = next(filter(None, map(_version, CUPY)), None)
    return {"version": version, "used": reason is None, "why_not": reason}


def _numba() -> dict[str, Any]:
    """Whether the CPU kernels run compiled; only a loaded `kernels.cpu` knows."""
    loops = sys.modules.get("minires.kernels.cpu.loops")
    reason = "the CPU kernels are not loaded" if loops is None else loops.why_not_compiled
    return {"version": _version("numba"), "used": reason is None, "why_not": reason}


def _data(name: str, data_dir: Path | None) -> dict[str, Any]:
    from minires.data import find_data
    from minires.errors import DataError

    try:
        return {"found": str(find_data(name, data_dir)), "why_not": None}
    except DataError as error:
        reason = "built in, drawn when asked for" if name == "shapes" else str(error)
        return {"found": None, "why_not": reason.removeprefix(f"{name}: ")}


def _show(report: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table.grid(padding=(0, 3))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for label, text in _lines(report):
        grid.add_row(label, text)
    kernels = Table(box=box.SIMPLE_HEAD)
    kernels.add_column("operation")
    kernels.add_column(f"runs on {report['device']} as")
    for row in report["kernels"]:
        kernels.add_row(row["operation"], row["kernel"])
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
    console.print(grid)
    console.print()
    console.print(kernels)
    console.print("float32 runs the kernels; float64, and what a kernel declines, the reference.")


def _processes(report: dict[str, Any]) -> str:
    """What stands behind the number of threads."""
    most = report["processes"]
    return "" if most == 1 else f", in up to {most} processes for large batches"


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and text for everything but the table of kernels."""
    cores = report["cores"]
    lines = [
        ("minires", f"{report['minires']}, Python {report['python']}, {report['platform']}"),
        ("device", f"{report['device']}, {report['threads']} CPU threads{_processes(report)}"),
        ("CPU", f"{cores['usable']} of {cores['all']} cores usable"),
    ]
    for gpu in report["gpus"]:
        memory = f"{gpu['memory'] / 2**30:.0f} GiB"
        capability = gpu["compute_capability"]
        lines.append((gpu["name"], f"{gpu['model']}, {memory}, compute capability {capability}"))
    if report["why_no_gpu"]:
        lines.append(("GPU", f"not used: {report['why_no_gpu']}"))
    for blas in report["blas"]:
        threads = f"{blas['threads']} thread{'s' if blas['threads'] != 1 else ''}"
        architecture = f" ({blas['architecture']})" if blas["architecture"] else ""
        text = f"{blas['library']} {blas['version']}{architecture}, {threads} per call"
        lines.append(("BLAS", text))
    cupy, numba = report["optional"]["cupy"], report["optional"]["numba"]
    lines.append(("CuPy", cupy["version"] or "not installed"))
    state = "compiles the CPU kernels" if numba["used"] else f"not used: {numba['why_not']}"
    lines.append(("numba", f"{numba['version']}, {state}" if numba["version"] else state))
    packages = ", ".join(f"{k} {v or 'missing'}" for k, v in report["packages"].items())
    lines.append(("packages", packages))
    for name, state in report["data"].items():
        lines.append((name, state["found"] or state["why_not"]))
    return lines
