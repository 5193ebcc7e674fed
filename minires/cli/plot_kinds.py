"""The kinds of `plot`, in the order of its help: each gathers what its picture shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minires.cli.counter import counter
from minires.cli.plot import Drawn, kind
from minires.cli.weights import split_option, weights_options

if TYPE_CHECKING:
    from minires.analysis.pictures.style import Theme
    from minires.analysis.predictions import Predictions

RUN = click.argument("run", type=click.Path(path_type=Path), required=False)


@kind(RUN)
def curves(theme: Theme, run: Path | None) -> Drawn:
    """Loss, accuracy and learning rate of a training."""
    from minires.analysis.pictures.curves import draw_curves
    from minires.errors import CheckpointError
    from minires.training.history import read_history
    from minires.training.run import newest_run, open_run

    folder = open_run(run or newest_run())
    records = read_history(folder.history)
    figure = draw_curves(theme, records, folder.path.absolute().name)
    if figure is None:
        raise CheckpointError(f"{folder.history}: no step has been logged yet")
    return Drawn(figure, {"history": records}, [f"run       {folder.path}"])


@kind(RUN, weights_options, split_option)
def confusion(theme: Theme, **options: Any) -> Drawn:
    """Which classes are taken for which: the confusion matrix."""
    from minires.analysis.pictures.confusion import draw_confusion, most_confused

    title, answers, numbers, lines = _ask(**options)
    names = answers.class_names
    pairs = most_confused(answers.confusion, names)
    lines += [f"mistaken  {count:,} times {true} for {answer}" for true, answer, count in pairs]
    numbers |= {"classes": list(names), "matrix": answers.confusion.tolist()}
    return Drawn(draw_confusion(theme, answers.confusion, names, title), numbers, lines)


@kind(RUN, weights_options, split_option)
def classes(theme: Theme, **options: Any) -> Drawn:
    """How well each class is known: accuracy and precision."""
    from minires.analysis.pictures.classes import class_records, draw_classes

    title, answers, numbers, lines = _ask(**options)
    records = class_records(answers.confusion, answers.class_names)
    figure = draw_classes(theme, answers.confusion, answers.class_names, title)
    return Drawn(figure, numbers | {"per_class": records}, lines)


def _ask(
    run: Path | None, split: str, **where: Any
) -> tuple[str, Predictions, dict[str, Any], list[str]]:
    """A heading, the answers for a whole split, and the numbers and lines that describe them."""
    from minires.analysis.predictions import predict_split
    from minires.training.run import newest_run
    from minires.training.trained import open_trained

    trained = open_trained(run or newest_run(), **where)
    answers = predict_split(trained, split, on_batch=counter())
    numbers = {
        "checkpoint": str(trained.path),
        "dataset": trained.config.dataset,
        "split": split,
        "images": len(answers.labels),
        "accuracy": answers.accuracy,
    }
    lines = [
        f"weights   {trained.path}",
        f"images    {len(answers.labels):,} of the {split} set of {trained.config.dataset}",
        f"accuracy  {answers.accuracy:.2%}",
    ]
    return f"{trained.title}, {split} set", answers, numbers, lines
