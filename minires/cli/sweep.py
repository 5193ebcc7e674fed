"""`sweep`: many trainings over the options of `train`, from one TOML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minires.cli.json_output import print_json
from minires.cli.options import config_options, given_values
from minires.errors import Interrupted, MiniresError, UsageError

if TYPE_CHECKING:
    from minires.sweep.folder import SweepFolder
    from minires.sweep.spec import SweepSpec
    from minires.sweep.study import Study


@click.command()
@click.argument("spec", required=False)
@click.option(
    "--sweep-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the sweep.  [default: sweeps/NAME]",
)
@click.option(
    "--workers", type=click.IntRange(1, 256), default=1, metavar="N", help="Trials side by side."
)
@click.option("--report", is_flag=True, help="Only rewrite and show the report; train nothing.")
@click.option("--list", "as_list", is_flag=True, help="Show the sweeps that come with minires.")
@config_options(("data_dir", "device", "threads"))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
@click.option("--as-worker", is_flag=True, hidden=True)
@click.pass_context
def command(
    ctx: click.Context,
    spec: str | None,
    sweep_dir: Path | None,
    workers: int,
    report: bool,
    as_list: bool,
    as_json: bool,
    as_worker: bool,
    **options: Any,
) -> int:
    """Train all trials of the sweep SPEC, or continue it where it stopped.

    SPEC is a TOML file, the name of a sweep that comes with minires, or the folder of a sweep.
    Ctrl-C saves; the same command continues. It may also be started more than once at a time: no
    trial is done twice. Each trial is an ordinary run folder, and --threads counts for one worker.

    To begin: sweep cpu-eight --workers 2
    """
    if as_list:
        _show_shipped(as_json)
        return 0
    if spec is None:
        raise UsageError("which sweep? give a TOML file, or a name that sweep --list shows")

    from minires.sweep.folder import folder_of
    from minires.sweep.spec import load_spec

    loaded = load_spec(spec)
    folder = folder_of(loaded, sweep_dir, spec)
    if report:
        from minires.sweep.study import open_study

        return _conclude(open_study(folder, loaded, None), as_json, program=None)
    machine = _machine(given_values(options), loaded, workers)
    if as_worker:
        return _work_for_parent(loaded, folder, machine)
    return _run(loaded, folder, machine, workers, as_json, ctx.find_root().info_name or "minires")


def _machine(given: dict[str, Any], spec: SweepSpec, workers: int) -> dict[str, Any]:
    """The config values that belong to the machine; the threads are shared out fairly."""
    from minires.devices import available_cores
    from minires.sweep.folder import can_lock
    from minires.training.config import check_layer

    if workers > 1 and not can_lock():
        raise UsageError(f"--workers {workers}: this system has no file locks, so use one worker")
    machine = check_layer(given, "")
    if spec.base.get("threads") is None:
        machine.setdefault("threads", max(1, available_cores() // workers))
    return machine


def _run(
    spec: SweepSpec,
    folder: SweepFolder,
    machine: dict[str, Any],
    workers: int,
    as_json: bool,
    program: str,
) -> int:
    """Check everything, then train: here, or in several workers."""
    from minires.sweep.check import check_sweep
    from minires.sweep.study import load_optuna, open_study
    from minires.sweep.work import folder_lines, work
    from minires.sweep.workers import program as worker_program
    from minires.sweep.workers import run_workers

    load_optuna()
    study = open_study(folder, spec, check_sweep(spec, machine))
    for line in folder_lines(study, folder):
        _say(line)
    codes = []
    try:
        if workers == 1:
            from minires.training.progress import progress_callback

            if sys.stderr.isatty():
                work(study, machine, _say, lambda label: progress_callback())
            else:
                work(study, machine, _say)
        else:
            arguments = [f"--{key.replace('_', '-')}={value}" for key, value in machine.items()]
            _say(f"workers  {workers}")
            codes = run_workers(
                [*worker_program(), "sweep", str(folder.path), "--as-worker", *arguments], workers
            )
    except Interrupted as stop:
        hint = f"{stop}; the same command continues the sweep in {folder.path}"
        raise Interrupted(hint, stop.exit_code) from stop
    return _conclude(study, as_json, program, codes)


def _work_for_parent(spec: SweepSpec, folder: SweepFolder, machine: dict[str, Any]) -> int:
    """One of several workers: it says what it does, and ends with its parent."""
    from minires.sweep.study import Study
    from minires.sweep.work import work
    from minires.sweep.workers import stop_with_parent

    stop_with_parent()
    try:
        work(Study(folder, spec), machine, _say)
    except Interrupted as stop:
        _say(str(stop))
        return stop.exit_code
    return 0


def _conclude(study: Study, as_json: bool, program: str | None, codes: list[int] = ()) -> int:
    """The report, and the exit code: that of a worker which failed, else of what is not done.

    program: None where nothing was trained.
    """
    from minires.sweep.report import print_table, summary_of, write_report

    rows = write_report(study)
    summary = summary_of(study, rows)
    if as_json:
        print_json(summary)
    else:
        print_table(study, rows)
        _last_words(summary)
    if program is None:
        return 0
    failed = next((code for code in codes if code > 0), 0)
    left = summary["asked"] - summary["finished"] - summary["pruned"] - summary["failed"]
    elsewhere = sum(row["state"] == "running" for row in rows)
    if left > elsewhere:
        raise MiniresError(
            f"{left - elsewhere} trials are not done, a worker ended early; the same command "
            f"continues the sweep in {study.folder.path}"
        )
    if elsewhere:
        _say(f"{elsewhere} trials are still running in another process")
    elif not summary["finished"]:
        raise MiniresError(f"no trial was finished; the last one: {rows[-1]['note']}")
    return failed


def _last_words(summary: dict[str, Any]) -> None:
    best = summary["best"]
    counts = ", ".join(
        f"{summary[state]} {state}" for state in ("finished", "pruned", "failed") if summary[state]
    )
    print(f"trials   {counts or 'none'} of {summary['asked']}")
    if best is not None:
        name = f" ({best['name']})" if best["name"] else ""
        print(
            f"best     trial {best['trial']}{name}: validation {best['val_accuracy']:.2%}, "
            f"test {best['test_accuracy']:.2%}"
        )
        print(f"its run  {best['run']}")
    shares = [f"{key} {share:.0%}" for key, share in summary["telling"].items() if share > 0]
    if shares:
        print(f"telling  {', '.join(shares)} of the variance between trials")
    print(f"report   {summary['csv']}, {summary['picture']}")


def _show_shipped(as_json: bool) -> None:
    from minires.sweep.spec import load_spec, shipped_names

    specs = [load_spec(name) for name in shipped_names()]
    if as_json:
        keys = ("name", "method", "trials", "about")
        print_json({"sweeps": [{k: getattr(s, k) for k in keys} for s in specs]})
        return
    for spec in specs:
        print(f"{spec.name:12}  {spec.trials:3} trials, {spec.method:6}  {spec.about}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
