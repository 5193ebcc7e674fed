"""`predict`: what a trained network makes of your own images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minires.cli.json_output import print_json
from minires.cli.weights import weights_options

if TYPE_CHECKING:
    from minires.analysis.classify import Answer

BAR = 24
"""Characters of a bar that stands for 100%."""


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument(
    "images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--fit",
    type=click.Choice(["crop", "squash"]),
    default="crop",
    help="Make an image square: take its middle, or press it together.",
)
@click.option("--top", type=click.IntRange(min=1), default=5, help="Classes to show.")
@click.option(
    "--gradcam",
    "overlays",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write pictures of what each answer looked at.",
)
@click.option(
    "--layer", metavar="NAME", show_default="last stage", help="Where Grad-CAM looks: layer2, ..."
)
@weights_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
def command(
    run: Path,
    images: tuple[Path, ...],
    fit: str,
    top: int,
    overlays: Path | None,
    layer: str | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Ask the network of RUN what is on each IMAGE: PNG or JPEG files, or folders of them.

    An image is cut to the square in its middle, shrunk to the 32x32 pixels of the training (every
    pixel counts, none is skipped) and normalised as the run was. A file that cannot be read is
    skipped with its reason; the others go on, and the exit code is 3 at the end.
    """
    from minires.analysis.classify import Answer, classify
    from minires.errors import DataError
    from minires.training.trained import open_trained

    trained = open_trained(run, **where)
    answers, skipped = [], []
    found = classify(trained, images, fit=fit, top=top, overlays=overlays, layer=layer)
    for item in found:
        if isinstance(item, Answer):
            answers.append(item)
            if not as_json:
                _show(item)
        else:
            skipped.append(item)
            print(f"skipped: {item.file}: {item.reason}", file=sys.stderr)
    if as_json:
        print_json({"checkpoint": str(trained.path), **_record(answers, skipped)})
    if skipped:
        number = len(answers) + len(skipped)
        raise DataError(f"{len(skipped)} of {number} could not be read as images")


def _record(answers: list[Answer], skipped: list) -> dict[str, Any]:
    return {
        "images": [
            {
                "file": str(answer.file),
                "top": [{"class": name, "probability": share} for name, share in answer.top],
                "gradcam": None if answer.overlay is None else str(answer.overlay),
            }
            for answer in answers
        ],
        "skipped": [{"file": str(item.file), "reason": item.reason} for item in skipped],
    }


def _show(answer: Answer) -> None:
    from rich.bar import Bar
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(min_width=14)
    table.add_column(justify="right")
    table.add_column(min_width=BAR)
    for name, share in answer.top:
        table.add_row(Text(name), f"{share:.1%}", Bar(1.0, 0.0, share, width=BAR))
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    console.print(Text(str(answer.file), style="bold"))
    console.print(table)
    if answer.overlay is not None:
        console.print(Text(f"Grad-CAM  {answer.overlay}"))
    console.print()
