"""`gradcheck`: hold every derivative to central differences, and the kernels to the reference."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from minires.cli.json_output import print_json
from minires.cli.tables import print_table

if TYPE_CHECKING:
    from rich.table import Table

    from minires.analysis.gradcheck import Check
    from minires.analysis.planted_bugs import Caught


@click.command()
@click.option("--plant-bug", is_flag=True, help="Break backward passes one by one: is each caught?")
@click.option("--only", metavar="PATTERN", help="Checks whose name holds or fits this: 'conv*'.")
@click.option("--device", metavar="NAME", default="auto", help="auto, cpu, gpu or gpu:1.")
@click.option("--threads", type=int, metavar="N", show_default="all cores", help="CPU threads.")
@click.option("--verbose", is_flag=True, help="A row for each check, not for each group of them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
@click.pass_context
def command(
    ctx: click.Context,
    plant_bug: bool,
    only: str | None,
    device: str,
    threads: int | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Check every operation, layer, block and small networks against central differences.

    First in float64, which proves the mathematics; then the same cases in float32 on the device,
    with its fast kernels. Exits with 1 if anything fails.
    """
    show = None if as_json else _show_each if verbose else _show_groups
    if plant_bug:
        report = _plant_bugs(only, show is not None)
    else:
        report = _check(only, device, threads, show)
    if as_json:
        print_json(report)
    ctx.exit(0 if report["passed"] else 1)


def _check(
    only: str | None,
    device_name: str,
    threads: int | None,
    show: Callable[[str, list[Check]], None] | None,
) -> dict[str, Any]:
    """The float64 checks, then the float32 kernels; `show` prints the tables. The report."""
    from minires.analysis import gradcheck, gradcheck_kernels
    from minires.analysis.gradcheck_cases import select_cases
    from minires.devices import select_device

    device = select_device(device_name, threads)
    start = time.perf_counter()
    cases = select_cases(only)
    with _Counter(len(cases)) as count:
        checks = gradcheck.run_checks(cases, count)
    middle = time.perf_counter()
    if show:
        show("float64 derivatives against central differences", checks)
        _show_verdict(checks, f"tolerance {gradcheck.RTOL:g}", middle - start)
    cases = select_cases(only, gradcheck_kernels.kernel_cases())
    with _Counter(len(cases)) as count:
        kernels = gradcheck_kernels.compare_kernels(cases, device, count)
    if show:
        limits = sorted(set(gradcheck_kernels.TOLERANCES.values()))
        tolerance = f"tolerance {limits[0]:g}, networks {limits[-1]:g}"
        show(f"float32 on {device} against the float64 reference ({_kernel_note(device)})", kernels)
        _show_verdict(kernels, tolerance, time.perf_counter() - middle)
    return {
        "passed": all(check.passed for check in (*checks, *kernels)),
        "worst": _number(max(check.max_relative_error for check in checks)),
        "checks": _records(checks),
        "kernels": {
            "device": str(device),
            "worst": _number(max(check.max_relative_error for check in kernels)),
            "checks": _records(kernels),
        },
        "seconds": round(time.perf_counter() - start, 3),
    }


def _kernel_note(device) -> str:
    from minires.backend import kernel_table

    rows = kernel_table(device.kind)
    fast = sum(row.kernel != "reference" for row in rows)
    return f"{fast} of {len(rows)} operations have kernels" if fast else "no kernels"


def _plant_bugs(only: str | None, show: bool) -> dict[str, Any]:
    from minires.analysis.bugs import BUGS
    from minires.analysis.planted_bugs import run_planted_bugs, select_bugs

    bugs = select_bugs(BUGS, only)
    with _Counter(len(bugs)) as count:
        results, control = run_planted_bugs(bugs, count)
    caught = sum(result.caught for result in results)
    if show:
        _show_bugs(results)
        failed = [check.name for check in control if not check.passed]
        without = f"{len(control) - len(failed)} of {len(control)} of these checks pass without one"
        print(f"{caught} of {len(results)} bugs caught; {without}")
    return {
        "passed": caught == len(results) and all(check.passed for check in control),
        "worst": _number(max(check.max_relative_error for check in control)),
        "checks": _records(control),
        "bugs": [_bug_record(result) for result in results],
    }


def _records(checks: list[Check]) -> list[dict[str, Any]]:
    return [
        {
            "name": check.name,
            "max_relative_error": _number(check.max_relative_error),
            "passed": check.passed,
        }
        for check in checks
    ]


def _bug_record(result: Caught) -> dict[str, Any]:
    check = result.check
    return {
        "name": result.bug.name,
        "target": result.bug.target,
        "caught": result.caught,
        "check": None if check is None else check.name,
        "max_relative_error": None if check is None else _number(check.max_relative_error),
    }


def _number(error: float) -> float | None:
    """The error for JSON, which knows no infinity."""
    return error if math.isfinite(error) else None


class _Counter:
    """Shows on one line of a terminal's stderr how far the checks are."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.visible = sys.stderr.isatty()

    def __enter__(self) -> Callable[[Any], None]:
        return self._advance

    def _advance(self, _: Any) -> None:
        self.done += 1
        self._write(f"check {self.done}/{self.total}")

    def __exit__(self, *_: Any) -> None:
        self._write("")

    def _write(self, text: str) -> None:
        if self.visible:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _show_groups(title: str, checks: list[Check]) -> None:
    """A row for each operation, layer and block, with its worst error; then the failed checks."""
    groups: dict[str, list[Check]] = {}
    for check in checks:
        groups.setdefault(check.name.partition(":")[0], []).append(check)
    table = _table(title, "", ">checks", ">compared", ">max error", "")
    for name, members in groups.items():
        worst = max(check.max_relative_error for check in members)
        passed = all(check.passed for check in members)
        compared = sum(check.compared for check in members)
        table.add_row(name, f"{len(members)}", f"{compared:,}", f"{worst:.1e}", _verdict(passed))
    _print(table)
    failed = [check for check in checks if not check.passed]
    if failed:
        _show_each("failed", failed)


def _show_each(title: str, checks: list[Check]) -> None:
    """A row for each check."""
    table = _table(title, "check", "worst at", ">compared", ">max error", "")
    for check in checks:
        error = f"{check.max_relative_error:.1e}"
        where = check.worst_at.replace("[", r"\[")
        table.add_row(check.name, where, f"{check.compared:,}", error, _verdict(check.passed))
    _print(table)


def _show_verdict(checks: list[Check], tolerance: str, seconds: float) -> None:
    worst = max(check.max_relative_error for check in checks)
    failed = sum(not check.passed for check in checks)
    verdict = f"{failed} of {len(checks)} checks FAILED" if failed else f"{len(checks)} passed"
    print(f"{verdict}; worst error {worst:.1e} ({tolerance}); {seconds:.1f} s\n")


def _show_bugs(results: list[Caught]) -> None:
    table = _table("planted bugs", "in", "bug", "caught by", ">error")
    for result in results:
        check = result.check
        caught_by = "[bold red]NOT CAUGHT[/]" if check is None else check.name
        error = "" if check is None else f"{check.max_relative_error:.1e}"
        table.add_row(result.bug.target, result.bug.name, caught_by, error)
    _print(table)


def _verdict(passed: bool) -> str:
    return "[green]passed[/]" if passed else "[bold red]FAILED[/]"


def _table(title: str, *headings: str) -> Table:
    """A table with these headings; those that begin with > are aligned to the right."""
    from rich import box
    from rich.table import Table

    print(title)
    table = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        right = heading.startswith(">")
        table.add_column(heading.removeprefix(">"), justify="right" if right else "left")
    return table


def _print(table: Table) -> None:
    """Print to the terminal's width, or to 120 columns into a file or a pipe."""
    print_table(table, 120)
