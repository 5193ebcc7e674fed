"""`download`: put CIFAR-10, CIFAR-100 or the drawn shapes into the data folder."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from minires.cli.json_output import print_json
from minires.errors import Interrupted

if TYPE_CHECKING:
    from minires.data.download import Progress


@click.command()
@click.option(
    "--dataset",
    type=click.Choice(["cifar10", "cifar100", "shapes"]),
    default="cifar10",
    help="Data set; shapes is drawn here, without a network.",
)
@click.option(
    "--data-dir",
    metavar="DIR",
    envvar="MINIRES_DATA",
    show_default="./data",
    help="Folder to put it in.",
)
@click.option(
    "--url",
    "urls",
    metavar="URL",
    multiple=True,
    envvar="MINIRES_MIRRORS",
    show_default="the known mirrors",
    help="Mirror of the archive; may be given several times, tried in turn.",
)
@click.option(
    "--archive",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Use this .tar.gz instead of the network.",
)
@click.option(
    "--sha256",
    metavar="HEX",
    show_default="that of the official archive",
    help="What the archive must have.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
def command(dataset: str, as_json: bool, **options: Any) -> None:
    """Fetch CIFAR-10 (170 MB), check it, and put its raw batches into the data folder.

    Mirrors can also be named in MINIRES_MIRRORS, with spaces between them.
    """
    from minires.data.download import install

    with _sigterm_as_error(), _bar(dataset) as on_progress:
        installed = install(dataset, on_progress=on_progress, **options)
    if as_json:
        result = {
            "dataset": installed.dataset,
            "folder": str(installed.folder),
            "source": installed.source,
            "files": list(installed.files),
            "bytes": installed.bytes,
        }
        print_json(result)
    else:
        count, size = len(installed.files), installed.bytes / 1e6
        print(f"{dataset}: {count} files, {size:.0f} MB in {installed.folder} ({installed.source})")


@contextmanager
def _bar(dataset: str) -> Iterator[Progress]:
    """A progress bar on stderr that appears with the first bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), SpeedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    task = bar.add_task(dataset, total=None)

    def show(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total or None)

    try:
        yield show if sys.stderr.isatty() else _no_bar
    finally:
        if bar.live.is_started:
            bar.stop()


def _no_bar(done: int, total: int) -> None:
    """Where nobody watches, nothing is shown."""


@contextmanager
def _sigterm_as_error() -> Iterator[None]:
    """Let SIGTERM unwind the program like Ctrl-C, so that nothing half-written stays."""

    def stop(*_: object) -> NoReturn:
        raise Interrupted("SIGTERM: download stopped, nothing was changed", exit_code=143)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
