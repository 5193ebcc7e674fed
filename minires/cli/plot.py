"""`plot`: the group of its kinds, which are in `minires.cli.plot_kinds`."""

from __future__ import annotations

import click

from minires.cli import complete_options
from minires.spelling import nearest


class Kinds(click.Group):
    """The group of pictures; the kinds are defined when one of them is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from minires.cli import plot_kinds

        defined = vars(plot_kinds).values()
        self.commands = {kind.name: kind for kind in defined if isinstance(kind, click.Command)}
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
