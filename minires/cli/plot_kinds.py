"""The kinds of `plot`, in the order of its help: each gathers what its picture shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minires.cli.counter import counter
from minires.cli.plot import Drawn, kind
from minires.cli.weights import data_options, split_option, weights_options

if TYPE_CHECKING:
    from minires.analysis.pictures.style import Theme
    from minires.analysis.predictions import Predictions
    from minires.analysis.sample import Sample
    from minires.training.trained import Trained

RUN = click.argument("run", type=click.Path(path_type=Path), required=False)
IMAGE = click.option(
    "--image",
    metavar="N|FILE",
    default="0",
    help="The image, by its number in the split, or a PNG or JPEG file.",
)


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


@kind(RUN, split_option, weights_options, data_options)
def confusion(theme: Theme, **options: Any) -> Drawn:
    """Which classes are taken for which: the confusion matrix."""
    from minires.analysis.pictures.confusion import draw_confusion, most_confused

    title, answers, numbers, lines = _ask(**options)
    names = answers.class_names
    pairs = most_confused(answers.confusion, names)
    lines += [f"mistaken  {count:,} times {true} for {answer}" for true, answer, count in pairs]
    numbers |= {"classes": list(names), "matrix": answers.confusion.tolist()}
    return Drawn(draw_confusion(theme, answers.confusion, names, title), numbers, lines)


@kind(RUN, split_option, weights_options, data_options)
def classes(theme: Theme, **options: Any) -> Drawn:
    """How well each class is known: accuracy and precision."""
    from minires.analysis.pictures.classes import class_records, draw_classes

    title, answers, numbers, lines = _ask(**options)
    records = class_records(answers.confusion, answers.class_names)
    figure = draw_classes(theme, answers.confusion, answers.class_names, title)
    return Drawn(figure, numbers | {"per_class": records}, lines)


@kind(
    RUN,
    split_option,
    click.option("--bins", type=click.IntRange(1, 1000), default=15, help="Bins of confidence."),
    weights_options,
    data_options,
)
def calibration(theme: Theme, bins: int, **options: Any) -> Drawn:
    """Whether 80% sure means right in 80% of the cases."""
    from minires.analysis.metrics import calibration as calibrate
    from minires.analysis.pictures.calibration import draw_calibration

    title, answers, numbers, lines = _ask(**options)
    result = calibrate(answers.confidence, answers.correct, bins)
    mean = float(answers.confidence.mean())
    lines += [f"sure      {mean:.2%} in the mean", f"ECE       {result.ece:.2%}"]
    numbers |= {"confidence": mean, "ece": result.ece, "counts": result.counts.tolist()}
    return Drawn(draw_calibration(theme, result, title), numbers, lines)


@kind(
    RUN,
    split_option,
    click.option("--count", type=click.IntRange(1, 400), default=24, help="Images to show."),
    weights_options,
    data_options,
)
def mistakes(theme: Theme, count: int, **options: Any) -> Drawn:
    """The wrong answers that the network was surest of."""
    from minires.analysis.pictures.mistakes import draw_mistakes, surest_mistakes

    title, answers, numbers, lines = _ask(**options)
    names = answers.class_names
    numbers["mistakes"] = [
        {
            "index": int(answers.indices[place]),
            "label": names[answers.labels[place]],
            "answer": names[answers.answers[place]],
            "confidence": float(answers.confidence[place]),
        }
        for place in surest_mistakes(answers, count)
    ]
    return Drawn(draw_mistakes(theme, answers, title, count), numbers, lines)


@kind(RUN, IMAGE, split_option, weights_options, data_options)
def filters(theme: Theme, image: str, **options: Any) -> Drawn:
    """The filters of the first layer, and what they make of an image."""
    from minires.analysis.pictures.filters import draw_filters
    from minires.backend import to_host

    trained, sample, numbers, lines = _look(image=(image,), **options)
    model = trained.model().eval()
    conv = model.first_conv
    weight, response = to_host(conv.weight.data), to_host(conv(sample.x))[0]
    figure = draw_filters(theme, weight, sample.images[0], response, trained.title)
    return Drawn(figure, numbers | {"shape": list(weight.shape)}, lines)


@kind(RUN, IMAGE, split_option, weights_options, data_options)
def features(theme: Theme, image: str, **options: Any) -> Drawn:
    """What becomes of one image on its way through the network."""
    from minires.analysis.chain import outputs_of, stage_ends
    from minires.analysis.metrics import softmax
    from minires.analysis.pictures.features import draw_features

    trained, sample, numbers, lines = _look(image=(image,), **options)
    outputs = outputs_of(trained.model(), sample.x)
    maps = {name: y[0] for name, y in outputs.items() if y.ndim == 4 and min(y.shape[2:]) > 1}
    maps = {stage: maps[name] for stage, name in stage_ends(maps).items()}
    (shares,) = softmax(list(outputs.values())[-1])
    best = {trained.class_names[k]: float(shares[k]) for k in (-shares).argsort()[:3]}
    figure = draw_features(theme, sample.images[0], maps, best, trained.title)
    numbers |= {"maps": {name: list(y.shape) for name, y in maps.items()}, "answer": best}
    return Drawn(figure, numbers, lines)


@kind(
    RUN,
    click.option(
        "--image",
        metavar="N|FILE",
        multiple=True,
        show_default="the first of each class",
        help="An image by its number, or a PNG or JPEG file; several times for several.",
    ),
    click.option(
        "--layer",
        metavar="NAME",
        show_default="the last stage",
        help="Where to look: a stage such as layer2, or a block, layer2.0.",
    ),
    click.option(
        "--class",
        "class_name",
        metavar="NAME",
        show_default="the network's answer",
        help="The class to ask about.",
    ),
    split_option,
    weights_options,
    data_options,
)
def gradcam(theme: Theme, layer: str | None, class_name: str | None, **options: Any) -> Drawn:
    """Where the network looked: Grad-CAM over images."""
    import numpy as np

    from minires.analysis.gradcam import gradcam as look
    from minires.analysis.pictures.gradcam import draw_gradcam
    from minires.errors import UsageError
    from minires.spelling import nearest

    trained, sample, numbers, lines = _look(**options)
    names, asked = trained.class_names, None
    if class_name is not None:
        if class_name not in names:
            raise UsageError(f"--class {class_name}: unknown{nearest(class_name, names)}")
        asked = np.full(len(sample.images), names.index(class_name))
    found = look(trained.model(), sample.x, asked, layer)
    figure = draw_gradcam(theme, sample.images, sample.captions, found, names, trained.title)
    numbers |= {"layer": found.layer, "classes": [names[k] for k in found.classes]}
    return Drawn(figure, numbers, [*lines, f"layer     {found.layer}"])


def _look(
    run: Path | None, split: str, image: tuple[str, ...], **where: Any
) -> tuple[Trained, Sample, dict[str, Any], list[str]]:
    """The weights, the images to look at, and what to say about both."""
    from minires.analysis.sample import sample_of

    trained = _open(run, **where)
    sample = sample_of(trained, split, image)
    numbers = {"checkpoint": str(trained.path), "images": list(sample.captions)}
    return trained, sample, numbers, [f"weights   {trained.path}"]


def _open(run: Path | None, **where: Any) -> Trained:
    from minires.training.run import newest_run
    from minires.training.trained import open_trained

    return open_trained(run or newest_run(), **where)


def _ask(
    run: Path | None, split: str, **where: Any
) -> tuple[str, Predictions, dict[str, Any], list[str]]:
    """A heading, the answers for a whole split, and the numbers and lines that describe them."""
    from minires.analysis.predictions import predict_split

    trained = _open(run, **where)
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
