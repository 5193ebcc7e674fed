"""`import`: a run folder from weights that were trained elsewhere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from minires.cli.json_output import print_json
from minires.cli.options import config_options, given_values
from minires.errors import UsageError
from minires.training.config import DATASETS, MODEL_OPTIONS
from minires.training.resolve import chosen_values


@click.command()
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--model", required=True, metavar="NAME", help="Model by name, such as resnet18.")
@click.option("--num-classes", type=int, metavar="N", default=10, help="Number of classes.")
@config_options(MODEL_OPTIONS)
@click.option(
    "--dataset",
    type=click.Choice(DATASETS),
    show_default="cifar10, or cifar100 for 100 classes",
    help="Data set that the classes are of.",
)
@click.option(
    "--mean",
    metavar="R,G,B",
    show_default="the file's own, else CIFAR-10's",
    help="Mean that the weights expect to be taken off pixels scaled to 0..1.",
)
@click.option(
    "--std",
    metavar="R,G,B",
    show_default="the file's own, else CIFAR-10's",
    help="Standard deviation that the weights expect pixels to be divided by.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the new run.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
@click.pass_context
def command(
    ctx: click.Context,
    weights: Path,
    output: Path,
    model: str,
    num_classes: int,
    dataset: str | None,
    mean: str | None,
    std: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a run folder from WEIGHTS, a safetensors file with PyTorch's names and shapes.

    All models of train are understood, and the usual variants: a module. prefix, linear for fc,
    shortcut for downsample. If anything is missing or does not fit, it is listed and nothing is
    written.
    """
    from minires.training.transfer import import_run

    numbers = {"mean": _three_numbers("--mean", mean), "std": _three_numbers("--std", std)}
    chosen = chosen_values(given_values(options))
    result = import_run(weights, output, model, num_classes, dataset, **numbers, **chosen)
    if as_json:
        print_json(result)
        return
    program = ctx.find_root().info_name or "minires"
    print(f"imported       {result['tensors']} arrays, {result['parameters']:,} parameters")
    print(f"model          {result['model']}, {result['num_classes']} classes")
    print(f"normalisation  mean {_spell(result['mean'])}, std {_spell(result['std'])}", end="")
    print(f" ({result['normalization_from']})")
    print(f"run folder     {result['run']}")
    print(f"next           {program} evaluate {result['run']}")


def _three_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """The numbers of R,G,B for pixels scaled to 0..1; `UsageError` for anything else."""
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
        raise UsageError(f"{option} {text}: must be three numbers, such as 0.49,0.48,0.45")
    low = "above 0" if option == "--std" else "from 0"
    if not all(0 <= n <= 1 for n in numbers) or (option == "--std" and min(numbers) == 0):
        raise UsageError(
            f"{option} {text}: must lie {low} to 1, for pixels scaled to 0..1 "
            "(divide values for 0..255 by 255)"
        )
    return numbers


def _spell(numbers: list[float]) -> str:
    return ",".join(f"{number:.6g}" for number in numbers)
