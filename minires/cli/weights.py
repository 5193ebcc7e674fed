"""Options that several commands share: which weights, on which device, on which images."""

from __future__ import annotations

from collections.abc import Callable

import click

from minires.training.config import DATASETS


def weights_options(command: Callable) -> Callable:
    """Which checkpoint of a run is taken, and where it is computed."""
    for option in reversed(_WEIGHTS):
        command = option(command)
    return command


def data_options(command: Callable) -> Callable:
    """Which data set is taken, and from where."""
    for option in reversed(_DATA):
        command = option(command)
    return command


_WEIGHTS = (
    click.option(
        "--checkpoint",
        metavar="best|last|FILE",
        show_default="best, else last",
        help="Which weights to take.",
    ),
    click.option("--device", metavar="NAME", default="auto", help="auto, cpu, gpu or gpu:1."),
    click.option("--threads", type=int, metavar="N", show_default="all cores", help="CPU threads."),
)

_DATA = (
    click.option(
        "--dataset",
        type=click.Choice(DATASETS),
        show_default="the run's own",
        help="Data set, for weights that know none.",
    ),
    click.option(
        "--data-dir",
        metavar="DIR",
        envvar="MINIRES_DATA",
        show_default="the run's own, else ./data",
        help="Folder that holds the data.",
    ),
)

split_option = click.option(
    "--split",
    type=click.Choice(["test", "val", "train"]),
    default="test",
    help="Which images: the test set, or those the run validated with or trained on.",
)
