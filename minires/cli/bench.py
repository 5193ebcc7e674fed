"""`bench`: how fast is it, against PyTorch and against the machine; and the ladder of loops."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from minires.cli.json_output import print_json
from minires.errors import UsageError
from minires.training.config import PRECISIONS

PICTURE_FORMATS = (".png", ".svg", ".pdf")


@click.command()
@click.option("--model", metavar="NAME", show_default="resnet18", help="Model by name.")
@click.option("--depth", type=int, metavar="N", help="The ResNet of this depth, such as 18 or 20.")
@click.option("--batch-size", type=click.IntRange(min=1), default=128, help="Images per step.")
@click.option("--device", metavar="NAME", default="auto", help="auto, cpu, gpu or gpu:1.")
@click.option(
    "--against", type=click.Choice(["torch"]), help="Time PyTorch's layouts in the same run."
)
@click.option(
    "--compile/--no-compile",
    default=None,
    show_default="on a GPU",
    help="And torch.compile (slow to start).",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    help="Of both; all but fp32 need a GPU.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="about a minute",
    help="Times that each contender runs.",
)
@click.option("--threads", type=int, metavar="N", show_default="all cores", help="CPU threads.")
@click.option(
    "--processes",
    type=int,
    metavar="N",
    show_default="what is fastest",
    help="CPU processes that share a batch, and the threads.",
)
@click.option(
    "--conv",
    type=click.Choice(["auto", "direct"]),
    default="auto",
    help="auto: Winograd where it fits; direct: im2col throughout.",
)
@click.option(
    "--loops",
    type=click.Choice(["auto", "numpy", "numba"]),
    default="auto",
    help="Loops of the CPU kernels; auto: all that are installed.",
)
@click.option("--inference/--no-inference", default=True, help="Time inference as well.")
@click.option("--memory/--no-memory", default=True, help="Weigh each contender in a process.")
@click.option("--data", is_flag=True, help="Time loading and augmentation as well.")
@click.option("--strict", is_flag=True, help="Fail if any kernel leaves work to the reference.")
@click.option("--ladder", is_flag=True, help="Time one convolution from six loops to Winograd.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="With --ladder: draw it.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
def command(
    model: str | None,
    depth: int | None,
    ladder: bool,
    picture: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Check the kernels against the reference, then time training and inference.

    For example: bench --depth 18 --device cpu --against torch
    """
    if picture is not None and not ladder:
        raise UsageError("--picture: belongs to --ladder")
    if ladder:
        _ladder(picture, as_json, options["threads"], options["rounds"])
        return
    from minires.analysis.bench_report import print_report
    from minires.analysis.bench_run import BenchConfig, run_benchmark

    config = BenchConfig(model=_model_name(model, depth), **options)
    with _progress():
        report = run_benchmark(config, _say)
    if as_json:
        print_json(report)
    else:
        print_report(report)


def _model_name(model: str | None, depth: int | None) -> str:
    if model is not None and depth is not None:
        raise UsageError("--model and --depth: give one of them")
    if depth is None:
        return model or "resnet18"
    from minires.models import name_for_depth

    return name_for_depth(depth)


def _ladder(picture: Path | None, as_json: bool, threads: int | None, rounds: int | None) -> None:
    from minires.analysis.ladder import climb
    from minires.analysis.ladder_report import draw_ladder, print_ladder

    if picture is not None and picture.suffix.lower() not in PICTURE_FORMATS:
        raise UsageError(f"--picture {picture}: the name must end in {', '.join(PICTURE_FORMATS)}")
    with _progress():
        report = climb(threads=threads, rounds=rounds, say=_say)
    if picture is not None:
        draw_ladder(report, picture)
    if as_json:
        print_json(report)
    else:
        print_ladder(report)
        if picture is not None:
            print(f"picture  {picture}")


def _say(line: str) -> None:
    """What is going on, on stderr: in place on a terminal, line by line elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line} ...", end="", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def _progress() -> Iterator[None]:
    """Take the last line of `_say` off the terminal when the context ends."""
    try:
        yield
    finally:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
