"""`evaluate`: what a trained (or imported) network makes of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minires.cli.counter import counter
from minires.cli.json_output import print_json
from minires.cli.weights import data_options, split_option, weights_options

if TYPE_CHECKING:
    from minires.training.measure import Measurement


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@weights_options
@data_options
@split_option
@click.option(
    "--tta/--no-tta",
    default=None,
    show_default="as the run does",
    help="Take the mean over each image and its mirror.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=250, help="Images per step.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
def command(run: Path, as_json: bool, **options: Any) -> None:
    """Measure the weights of RUN: accuracy, loss, and each class.

    RUN is a run folder or a checkpoint file.
    """
    from minires.training.measure import measure

    result = measure(run, on_batch=counter(), **options)
    if as_json:
        print_json(result.to_dict())
    else:
        _show(result)


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
