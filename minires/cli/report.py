"""`report`: one HTML page about a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from minires.cli.counter import counter
from minires.cli.json_output import print_json
from minires.cli.weights import split_option, weights_options


@click.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@weights_options
@split_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    show_default="report.html in the run's folder",
    help="Where to write the page.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
def command(run: Path | None, split: str, output: Path | None, as_json: bool, **where: Any) -> None:
    """Write one HTML page about RUN: curves, classes, mistakes, config, timing, machine.

    RUN is a run folder; without it, the newest run in runs/ is taken. The page holds its pictures
    and needs no network.
    """
    from minires.analysis.predictions import predict_split
    from minires.analysis.report import check_page, default_output, make_report
    from minires.atomic import write_atomically
    from minires.training.run import newest_run, open_run
    from minires.training.trained import open_trained

    folder = open_run(run or newest_run())
    page = output or default_output(folder)
    check_page(page)
    trained = open_trained(folder.path, **where)
    answers = predict_split(trained, split, on_batch=counter())
    html = make_report(folder, trained, answers, None if as_json else _say).encode(
        "utf-8", "replace"
    )
    write_atomically(page, html)
    numbers = {"output": str(page), "accuracy": answers.accuracy, "bytes": len(html)}
    if as_json:
        print_json(numbers)
    else:
        print(f"accuracy  {answers.accuracy:.2%} on the {split} images")
        print(f"report    {page} ({len(html) / 2**20:.1f} MB)")


def _say(what: str) -> None:
    if sys.stderr.isatty():
        print(f"drawing {what}", file=sys.stderr)
