"""`recipes`: the trainings that have a name, what they cost and what they reached."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from minires.cli.json_output import print_json
from minires.cli.tables import needed_width, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from minires.training.recipe_report import Cost, Report

ROOM = 25
"""More characters than its words need make the table of the recipes readable."""


@click.command()
@click.argument("name", required=False, metavar="[NAME]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
@click.pass_context
def command(ctx: click.Context, name: str | None, as_json: bool) -> None:
    """List the recipes, or show one: what it is, its settings, and the command that runs it.

    The cost is that of one training: values to learn, multiply-adds for one image, epochs times
    steps. A recipe of several trainings has a row for each.
    """
    from minires.training.recipe_report import report, reports

    if name is None:
        listed = reports()
        if as_json:
            print_json({"recipes": [one.to_dict() for one in listed]})
        else:
            _list(listed)
        return
    one = report(name)
    if as_json:
        print_json(one.to_dict())
    else:
        _show(one, name, ctx.find_root().info_name or "minires")


def _list(listed: Sequence[Report]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from minires.training.recipe_report import reached

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it is")
    for heading in ("parameters", "multiply-adds", "epochs x steps"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("test accuracy")
    for one in listed:
        single = len(one.costs) == 1
        cells = _cells(one.costs[0]) if single else ("", "", "")
        table.add_row(one.recipe.name, one.recipe.about.what, *cells, reached(one.records))
        for cost in () if single else one.costs:
            table.add_row("", f"  /{cost.run}", *_cells(cost))
    if sys.stdout.isatty() and Console().width < needed_width(table) + ROOM:
        _list_narrow(listed)
    else:
        print_table(table, 160)
    print("recipes NAME shows one; train --recipe NAME runs it.")


def _list_narrow(listed: Sequence[Report]) -> None:
    """The list for a terminal that is too narrow for its table."""
    from minires.training.recipe_report import reached

    for one in listed:
        print(f"{one.recipe.name}: {one.recipe.about.what}")
        for cost in one.costs:
            run = f"/{cost.run}: " if cost.run else ""
            print("  {}{} parameters, {} multiply-adds, {} steps".format(run, *_cells(cost)))
        print(f"  {reached(one.records)}\n")


def _cells(cost: Cost) -> tuple[str, str, str]:
    return (
        f"{cost.parameters:,}",
        f"{cost.multiply_adds / 1e6:,.1f} M",
        f"{cost.epochs} x {cost.steps_per_epoch:,}",
    )


def _show(one: Report, name: str, program: str) -> None:
    from minires.training.recipe_report import reached
    from minires.training.recipes import recipe_text

    about = one.recipe.about
    lines = [("recipe", name), ("what", about.what), ("follows", about.follows)]
    lines += [("aim", about.aim), ("reached", reached(one.records))]
    for cost in one.costs:
        parameters, work, steps = _cells(cost)
        text = f"{parameters} parameters, {work} multiply-adds an image, {steps} steps"
        label = f"{cost.run}: " if cost.run else ""
        lines.append(("cost", f"{label}{text} of {cost.batch_size} images"))
    needs = {f"--{key.replace('_', '-')}": what for key, what in about.needs.items()}
    lines += [("needs", f"{option} FILE, {what}") for option, what in needs.items()]
    commands = [" ".join([f"train --recipe {name}", *(f"{option} FILE" for option in needs)])]
    commands += [] if "/" in name else about.commands
    lines += [("or" if i else "run", f"{program} {text}") for i, text in enumerate(commands)]
    for heading, text in lines:
        if text:
            print(f"{heading:8} {text}")
    print(f"\n{recipe_text(name.partition('/')[0]).rstrip()}")
