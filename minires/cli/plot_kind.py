"""What the kinds of `plot` share: a picture with its numbers, and how one becomes a command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minires.cli.json_output import print_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Drawn:
    """A picture, its numbers for --json, and lines such as "accuracy  90.63%" for people."""

    figure: Figure
    numbers: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def kind(*options: Callable) -> Callable:
    """Make a command of a function (theme, **values of options) that returns a `Drawn`.

    Its name is the function's, its help the docstring; --output, --theme and --json come on top.
    """

    def register(draw: Callable[..., Drawn]) -> click.Command:
        def run(output: Path | None, theme: str, as_json: bool, **values: Any) -> None:
            from minires.analysis.pictures.style import check_output, save_picture, themed

            path = output or Path(f"{draw.__name__}.png")
            check_output(path)
            with themed(theme) as look:
                drawn = draw(look, **values)
                save_picture(drawn.figure, path)
            if as_json:
                print_json({**drawn.numbers, "output": str(path)})
            else:
                print(*drawn.lines, f"picture   {path}", sep="\n")

        run.__doc__ = draw.__doc__
        for option in reversed((*options, _output_option(draw.__name__), *_SHARED)):
            run = option(run)
        return click.command(draw.__name__)(run)

    return register


def _output_option(name: str) -> Callable:
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"Where to write it: .png, .svg or .pdf.  [default: {name}.png]",
    )


_SHARED = (
    click.option(
        "--theme", type=click.Choice(["light", "dark"]), default="light", help="Its colours."
    ),
    click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout."),
)
