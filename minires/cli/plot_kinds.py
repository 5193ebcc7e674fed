"""The kinds of `plot`, in the order of its help: each gathers what its picture shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minires.cli.counter import counter
from minires.cli.options import config_options, given_values
from minires.cli.plot_kind import Drawn, kind
from minires.cli.weights import data_options, split_option, weights_options
from minires.spelling import printable

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
    figure = draw_curves(theme, records, printable(folder.path.absolute().name))
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
    """The filters of the first layer, and what they see."""
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


@kind(
    RUN,
    config_options(
        ("schedule", "lr", "epochs", "warmup", "milestones", "gamma", "cycle_momentum")
        + ("cycle_shape", "cycles", "cycle_growth")
    ),
)
def schedule(theme: Theme, run: Path | None, **options: Any) -> Drawn:
    """The learning rate over the epochs.

    Of RUN, with points where it was logged; of the options; or, without both, of all schedules.
    """
    from minires.analysis.courses import STEPS, all_courses, course_of
    from minires.analysis.pictures.schedule import draw_schedule
    from minires.training.history import read_history
    from minires.training.resolve import resolve
    from minires.training.run import open_run

    given = given_values(options)
    folder = None if run is None else open_run(run)
    config = resolve(given, folder and folder.config)
    records = [r for r in read_history(folder.history) if "lr" in r] if folder else []
    steps = records[-1]["step"] / records[-1]["progress"] if records else STEPS
    whole = folder is None and "schedule" not in given
    courses = all_courses(config, steps) if whole else [course_of(config, steps)]
    logged = [] if given else [(r["progress"], r["lr"]) for r in records if r["kind"] == "epoch"]
    title = printable(folder.path.absolute().name) if folder else ""
    figure = draw_schedule(theme, courses, logged, title)
    numbers = {course.name: [course.epochs, course.rates] for course in courses}
    highest = max(max(course.rates) for course in courses)
    return Drawn(figure, {"schedules": numbers}, [f"highest   {highest:g}"])


@kind(
    RUN,
    click.option("--image", type=int, metavar="N", default=0, help="A training image's number."),
    click.option("--count", type=click.IntRange(1, 400), default=24, help="Variants to draw."),
    config_options(
        ("dataset", "data_dir", "crop_padding", "flip", "color_jitter", "cutout", "mixup", "cutmix")
        + ("mix_share", "seed")
    ),
)
def augment(theme: Theme, run: Path | None, image: int, count: int, **options: Any) -> Drawn:
    """What augmentation makes of one image.

    As in RUN, or as the options say; without both, each kind alone.
    """
    from minires.analysis.augmented import each_kind, variants
    from minires.analysis.pictures.augment import COLUMNS, draw_augment
    from minires.data import load_dataset
    from minires.errors import UsageError
    from minires.training.resolve import resolve
    from minires.training.run import open_run

    given = given_values(options)
    config = resolve(given, run and open_run(run).config)
    dataset = load_dataset(config.dataset, "train", config.data_dir)
    if not 0 <= image < len(dataset):
        raise UsageError(f"--image {image}: {config.dataset} has images 0 to {len(dataset) - 1}")
    if run is None and not given.keys() - {"dataset", "data_dir", "seed"}:
        kinds = each_kind(config, dataset, image, COLUMNS)
    else:
        kinds = [variants(config, dataset, image, count, "in training")]
    label = dataset.class_names[dataset.labels[image]]
    title = f"image {image} of {config.dataset}, {label}"
    numbers = {"image": image, "label": label, "kinds": [k.name for k in kinds]}
    return Drawn(draw_augment(theme, dataset.images[image], kinds, title), numbers)


@kind(
    RUN,
    click.option("--images", type=click.IntRange(2, 1000), default=128, help="Size of the batch."),
    split_option,
    weights_options,
    data_options,
)
def statistics(theme: Theme, run: Path | None, split: str, images: int, **where: Any) -> Drawn:
    """How large activations and gradients are in each layer."""
    from dataclasses import asdict

    from minires.analysis.pictures.statistics import draw_statistics
    from minires.analysis.signals import signals
    from minires.models import build

    trained = _open(run, **where)
    dataset, indices = trained.images(split)
    ((x, labels),) = trained.loader(dataset, indices[:images], images).epoch(0)
    fresh = build(**trained.checkpoint.spec, device=trained.device)
    networks = {"before the training": fresh, "after it": trained.model()}
    found = {word: signals(model, x, labels) for word, model in networks.items()}
    figure = draw_statistics(theme, found, trained.title)
    numbers = {word: [asdict(signal) for signal in row] for word, row in found.items()}
    return Drawn(figure, numbers, [f"weights   {trained.path}"])


@kind(
    click.argument("runs", metavar="[RUN]...", nargs=-1, type=click.Path(path_type=Path)),
    click.option("--dims", type=click.IntRange(1, 2), default=1, help="Directions: a line or map."),
    click.option(
        "--points",
        type=click.IntRange(3, 1001),
        metavar="N",
        show_default="41, or 21 for a map",
        help="Points along each direction.",
    ),
    click.option(
        "--span",
        type=click.FloatRange(0, min_open=True),
        default=1.0,
        help="How far to go; 1 is as far as the weights are long.",
    ),
    click.option("--images", type=click.IntRange(1), default=500, help="Images for each point."),
    click.option("--seed", type=click.IntRange(0), default=0, help="Draws the directions."),
    click.option(
        "--grid",
        type=click.Path(path_type=Path, dir_okay=False),
        default=Path("landscape.npz"),
        metavar="FILE",
        help="Keeps the points; an unfinished one is continued.",
    ),
    click.option(
        "--split",
        type=click.Choice(["train", "val", "test"]),
        default="train",
        help="Which images the loss is of.",
    ),
    weights_options,
    data_options,
)
def landscape(
    theme: Theme, runs: tuple[Path, ...], points: int | None, grid: Path, **options: Any
) -> Drawn:
    """The loss around the weights of runs, along random directions.

    The directions are filter-normalised (Li et al. 2018). The points are kept in --grid as they are
    computed: after Ctrl-C the same command goes on.
    """
    import numpy as np

    from minires.analysis.landscape import Landscape, Plan
    from minires.analysis.pictures.landscape import draw_landscape

    chosen = {name: options.pop(name) for name in ("dims", "span", "images", "seed", "split")}
    plan = Plan(points=points or (41 if chosen["dims"] == 1 else 21), **chosen)
    trained = [_open(run, **options) for run in runs or (None,)]
    land = Landscape(trained, plan, grid)
    lines = [f"weights   {run.path}" for run in trained]
    lines.append(f"grid      {grid}, {land.finished:,} of {land.total:,} points were there")
    land.compute(counter("point"))
    names = [run.title for run in trained]
    numbers = {"axis": plan.axis.tolist(), "grid": str(grid), "runs": []}
    for run, found in zip(trained, land.grids, strict=True):
        loss = np.where(np.isfinite(found.loss), found.loss.astype(object), None)  # for JSON
        rows = {"loss": loss.tolist(), "accuracy": found.accuracy.tolist()}
        numbers["runs"].append({"checkpoint": str(run.path), **rows})
    return Drawn(draw_landscape(theme, plan, land.grids, names), numbers, lines)


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
