"""`evaluate`: what a trained (or imported) network makes of a data set."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minires.training.config import DATASETS

if TYPE_CHECKING:
    from minires.training.measure import Measurement


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    metavar="best|last|FILE",
    show_default="best, else last",
    help="Which weights to measure.",
)
@click.option(
    "--split",
    type=click.Choice(["test", "val", "train"]),
    default="test",
    help="Which images: the test set, or those the run validated with or trained on.",
)
@click.option(
    "--dataset",
    type=click.Choice(DATASETS),
    show_default="the run's own",
    help="Data set, for weights that know none.",
)
@click.option(
    "--data-dir",
    metavar="DIR",
    envvar="MINIRES_DATA",
    show_default="the run's own, else ./data",
    help="Folder that holds the data.",
)
@click.option(
    "--tta/--no-tta",
    default=None,
    show_default="as the run does",
    help="Take the mean over each image and its mirror.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=250, help="Images per step.")
@click.option("--device", metavar="NAME", default="auto", help="auto, cpu, gpu or gpu:1.")
@click.option(
    "--threads", type=int, metavar="N", show_default="all cores", help="CPU threads."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
def command(run: Path, as_json: bool, **options: Any) -> None:
    """Measure the weights of RUN: accuracy, loss, and each class.

    RUN is a run folder or a checkpoint file.
    """
    from minires.training.measure import measure

    on_batch = _counter() if sys.stderr.isatty() else None
    result = measure(run, on_batch=on_batch, **options)
    if as_json:
        print(json.dumps(result.to_dict()))
    else:
        _show(result)


def _counter():
    """Shows on one line of the terminal how far the evaluation is."""

    def show(done: int, batches: int) -> None:
        end = "\r" if done < batches else "\r\x1b[K"
        text = f"batch {done}/{batches}" if done < batches else ""
        print(text, end=end, file=sys.stderr, flush=True)

    return show


def _show(result: Measurement) -> None:
    width = max(len(row["name"]) for row in result.per_class)
    mirrored = ", each with its mirror" if result.tta else ""
    print(f"{result.checkpoint} on the {result.split} images of {result.dataset}{mirrored}")
    print(f"accuracy  {result.accuracy:.2%}  ({result.correct:,} of {result.images:,})")
    print(f"loss      {result.loss:.4f}")
    print()
    print(f"{'class':{width}}  images  accuracy")
    for row in result.per_class:
        share = "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
        print(f"{row['name']:{width}}  {row['images']:6,}  {share:>8}")
