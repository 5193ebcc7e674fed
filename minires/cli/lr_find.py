"""`lr-find`: which learning rate to begin with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from minires.cli.json_output import print_json
from minires.cli.options import config_options, given_values
from minires.cli.train import GroupedCommand
from minires.errors import UsageError
from minires.training.config import FIELDS
from minires.training.resolve import resolve

UNUSED = {
    *("lr", "epochs", "patience", "schedule", "warmup", "milestones", "gamma", "ema", "tta"),
    *("cycle_momentum", "cycle_shape", "cycles", "cycle_growth", "plateau_patience"),
    *("save_every", "log_every", "eval_batch_size", "max_parameters", "graph"),
}
"""Fields of a training that a few steps with their own rates have no use for."""


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
@config_options(name for name in FIELDS if name not in UNUSED)
@click.option("--steps", type=int, default=200, metavar="N", help="Steps of the test, at most.")
@click.option("--from", "lowest", type=float, default=1e-5, metavar="X", help="First rate.")
@click.option("--to", "highest", type=float, default=10.0, metavar="X", help="Last rate.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("lr-find.png"),
    metavar="FILE",
    help="Where to draw loss over rate.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
def command(
    recipe: str | None,
    config_file: Path | None,
    steps: int,
    lowest: float,
    highest: float,
    output: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Find a learning rate: train a throwaway model with a rate that rises until the loss explodes.

    The suggestion is the rate where the loss falls fastest: the peak of a one-cycle may be a few
    times higher, a constant rate a little lower.
    """
    config = resolve(given_values(options), config_file, recipe)
    if not output.resolve().parent.is_dir():
        raise UsageError(f"--output {output}: its folder does not exist")

    from minires.training.lr_find import draw_range_test, find_lr

    show = _show_step if sys.stderr.isatty() else None
    result = find_lr(config, lowest, highest, steps, show)
    if show is not None:
        print("\r\x1b[K", end="", file=sys.stderr)
    title = f"{config.model} on {config.dataset}, {config.optimizer}, batch {config.batch_size}"
    draw_range_test(result, output, title)
    if as_json:
        print_json({**result.to_dict(), "output": str(output)})
        return
    print(f"steps       {len(result.rates)}", end="")
    print(", until the loss exploded" if result.exploded else ", the loss did not explode")
    if result.suggestion is None:
        print("suggestion  none: the loss never fell; try more --steps, or sanity")
    else:
        print(f"suggestion  --lr {result.suggestion:.2g} (where the loss falls fastest)")
        print(f"lowest      at {result.lowest:.2g}; beyond it training gets worse")
    print(f"picture     {output}")


def _show_step(step: int, rate: float, loss: float) -> None:
    print(f"\rstep {step}  rate {rate:.2e}  loss {loss:.3f}\x1b[K", end="", file=sys.stderr)
