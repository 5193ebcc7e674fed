"""`plot`: the group of its kinds, and what all of them share. `minires.cli.plot_kinds` has them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minires.cli import complete_options
from minires.cli.json_output import print_json
from minires.spelling import nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Drawn:
    """A picture, its numbers for --json, and lines such as "accuracy  90.63%" for people."""

    figure: Figure
    numbers: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


class Kinds(click.Group):
    """The group of pictures; the kinds are defined when one of them is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        importlib.import_module("minires.cli.plot_kinds")
        return list(self.commands)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        self.list_commands(ctx)
        command = super().get_command(ctx, name)
        if command is not None:
            complete_options(command, "plot")
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        """As click does, with the nearest name in the error."""
        kinds = self.list_commands(ctx)
        if args and args[0] not in kinds and not args[0].startswith("-"):
            ctx.fail(f"no picture {args[0]!r}{nearest(args[0], kinds)}")
        return super().resolve_command(ctx, args)


@click.group(cls=Kinds, subcommand_metavar="KIND [RUN] [OPTIONS]", options_metavar="")
def command() -> None:
    """Draw a picture of a run.

    RUN is a run folder; without it, the newest run in runs/ is taken. The
    picture is written to KIND.png, or where --output says; .svg and .pdf are for print.
    """


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
        return command.command(draw.__name__)(run)

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
