"""`compare`: runs side by side, as a table and as overlaid curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from minires.cli.json_output import print_json
from minires.cli.tables import print_table

if TYPE_CHECKING:
    from minires.training.comparison import Row


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("compare.png"),
    metavar="FILE",
    help="Where to draw the curves: .png, .svg or .pdf.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
def command(runs: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Put runs side by side: what differs, what each reached, and their curves in one picture.

    RUN is a run folder, finished or not, or a folder of docs/results. Runs that differ in their
    seed alone make one row, with the mean and the standard deviation over the seeds.
    """
    from minires.training.comparison import compare
    from minires.training.comparison_curves import check_output, draw_comparison

    check_output(output)
    rows = compare(runs)
    drawn = draw_comparison(rows, output)
    if as_json:
        picture = str(output) if drawn else None
        print_json({"rows": [row.to_dict() for row in rows], "output": picture})
        return
    show_rows(rows)
    print(f"picture  {output}" if drawn else "no picture: no run has finished an epoch yet")


def show_rows(rows: Sequence[Row]) -> None:
    """Print the table of a comparison."""
    from rich import box
    from rich.table import Table

    from minires.training.comparison import epochs_done, label_of
    from minires.training.progress import duration

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("run")
    table.add_column("what differs" if len(rows) > 1 else "network")
    for name in ("epochs", "best validation", "test", "parameters", "time", "images/s"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            _folders(row),
            label_of(row.differs) or row.runs[0].config.model,
            epochs_done(row),
            _share(row.measure("best_val_accuracy")),
            _share(row.measure("test_accuracy")),
            _mean(row.measure("parameters"), lambda value: f"{value:,.0f}"),
            _mean(row.measure("seconds"), duration),
            _mean(row.measure("images_per_second"), lambda value: f"{value:,.0f}"),
        )
    print_table(table, 160)
    if any(len(row.runs) > 1 for row in rows):
        print("Over several seeds: mean ± standard deviation; the time is that of one run.")


def _folders(row: Row) -> str:
    name = row.runs[0].path.resolve().name
    return name if len(row.runs) == 1 else f"{name} and {len(row.runs) - 1} more"


def _share(value: dict[str, float] | None) -> str:
    if value is None:
        return "-"
    mean = f"{value['mean']:.2%}"
    return mean if value["count"] == 1 else f"{mean} ± {value['deviation']:.2%}"


def _mean(value: dict[str, float] | None, spell) -> str:
    return "-" if value is None else spell(value["mean"])
