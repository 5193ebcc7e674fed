"""`summary`: a model layer by layer, with its shapes, parameters and multiply-adds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from minires.cli.json_output import print_json
from minires.cli.options import config_options, given_values
from minires.cli.tables import print_table
from minires.training.config import MODEL_OPTIONS
from minires.training.resolve import chosen_values

if TYPE_CHECKING:
    from minires.models import Summary


@click.command()
@click.option("--depth", type=int, metavar="N", show_default="20", help="18, 34, 50, 101 or 6n+2.")
@click.option("--model", metavar="NAME", help="A model by name instead, such as vgg16.")
@config_options(MODEL_OPTIONS)
@click.option("--num-classes", type=int, default=10, help="Outputs of the last layer.")
@click.option("--image-size", type=click.IntRange(min=1), default=32, help="Pixels per side.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
def command(
    depth: int | None,
    model: str | None,
    num_classes: int,
    image_size: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Show a model layer by layer: shapes, parameters, multiply-adds.

    Multiply-adds are those of convolutions and linear layers, for one image.
    """
    from minires.errors import ShapeError, UsageError
    from minires.models import build, name_for_depth, summarize

    if depth is not None and model is not None:
        raise UsageError("--depth and --model name two models; give one of them")
    name = model or name_for_depth(20 if depth is None else depth)
    chosen = chosen_values(given_values(options))
    network = build(name, num_classes, **chosen)
    try:
        summary = summarize(network, (3, image_size, image_size))
    except ShapeError as error:
        raise UsageError(f"--image-size {image_size}: {error}") from error
    if as_json:
        print_json({"model": name, **asdict(summary)})
    else:
        _show(", ".join([name, *map(_spell, chosen.items())]), summary)


def _show(title: str, summary: Summary) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_footer=True)
    table.add_column("layer", "total")
    table.add_column("kind")
    table.add_column("input")
    table.add_column("output")
    table.add_column("parameters", f"{summary.parameters:,}", justify="right")
    table.add_column("multiply-adds", f"{summary.multiply_adds:,}", justify="right")
    for layer in summary.layers:
        table.add_row(
            layer.name,
            layer.kind,
            _shape(layer.input_shape),
            _shape(layer.output_shape),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.multiply_adds:,}" if layer.multiply_adds else "",
        )
    print(title)
    print_table(table, 120)


def _spell(option: tuple[str, Any]) -> str:
    """An option of the network in words: plain, stem imagenet, blocks 3,4,3."""
    name, value = option
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"not {words}"
    return f"{words} {','.join(map(str, value)) if isinstance(value, tuple) else value}"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
