"""`sanity`: small trials that find the usual mistakes before a long training."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minires.cli.json_output import print_json
from minires.cli.lr_find import UNUSED
from minires.cli.options import config_options, given_values
from minires.cli.train import GroupedCommand
from minires.training.config import FIELDS
from minires.training.resolve import resolve

if TYPE_CHECKING:
    from minires.training.sanity import Check


@click.command(cls=GroupedCommand)
@click.option("--recipe", metavar="NAME", help="Begin with a named recipe; see recipes.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take values from a TOML file; options win over it.",
)
@click.option("--depth", type=int, metavar="N", help="18, 34, 50, 101, or 6n+2.")
@config_options(name for name in FIELDS if name == "lr" or name not in UNUSED)
@click.option(
    "--steps", type=click.IntRange(min=1), default=200, metavar="N", help="Steps of a trial."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
@click.pass_context
def command(
    ctx: click.Context,
    recipe: str | None,
    config_file: Path | None,
    steps: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Check a training before it is run: the first loss, gradients, one batch learned by heart.

    Takes the options of train and at most some minutes. Exits with 1 if a check fails.
    """
    config = resolve(given_values(options), config_file, recipe)

    from minires.training.sanity import run_checks

    checks = run_checks(config, steps, None if as_json else _show)
    failed = sum(not check.passed for check in checks)
    if as_json:
        print_json({"passed": not failed, "checks": [check.to_dict() for check in checks]})
    else:
        print(f"\n{len(checks) - failed} of {len(checks)} checks passed")
    ctx.exit(1 if failed else 0)


def _show(check: Check) -> None:
    print(f"{'ok  ' if check.passed else 'FAIL'}  {check.name}: {check.found}", flush=True)
    if not check.passed:
        print(textwrap.fill(check.advice, 96, initial_indent=" " * 6, subsequent_indent=" " * 6))
