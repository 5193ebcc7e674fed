"""`explain`: one layer, from its formulas to the numbers of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minires.cli.json_output import print_json
from minires.cli.options import config_options, given_values
from minires.training.config import MODEL_OPTIONS
from minires.training.resolve import chosen_values

if TYPE_CHECKING:
    from minires.analysis.explain import Explained
    from minires.backend import Array
    from minires.models import Network


@click.command()
@click.argument("layer", required=False)
@click.option("--run", type=click.Path(path_type=Path), metavar="RUN", help="A trained network.")
@click.option("--depth", type=int, metavar="N", show_default="20", help="18, 34, 50, 101 or 6n+2.")
@click.option("--model", metavar="NAME", help="A model by name instead, such as vgg16.")
@config_options(MODEL_OPTIONS)
@click.option(
    "--data-dir",
    metavar="DIR",
    envvar="MINIRES_DATA",
    show_default="the run's own, else ./data",
    help="With --run: the folder that holds the data.",
)
@click.option("--batch-size", type=click.IntRange(min=2), default=8, help="Images of the batch.")
@click.option("--source/--no-source", default=True, help="Show the code.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
def command(
    layer: str | None,
    run: Path | None,
    depth: int | None,
    model: str | None,
    data_dir: str | None,
    batch_size: int,
    source: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Explain LAYER: its formulas, shapes, cost, code, and the numbers of one batch.

    LAYER is a kind of layer (conv, batch-norm, residual, ...) or a place in a network
    (layer1.0.conv1). Without LAYER, lists both. The batch comes from the built-in images, or with
    --run from the test images of the run's data set.
    """
    from minires.analysis.explain import explain, layer_names
    from minires.errors import UsageError

    chosen = chosen_values(given_values(options))
    if run is not None and (depth is not None or model is not None or chosen):
        raise UsageError("--run names the network already; leave out the options that describe one")
    if depth is not None and model is not None:
        raise UsageError("--depth and --model name two models; give one of them")
    if run is not None:
        network, x, labels = _trained(run, data_dir, batch_size)
    else:
        network, x, labels = _fresh(layer, depth, model, chosen, batch_size)
    if layer is None:
        _list(network.spec["name"], list(layer_names(network)), as_json)
        return
    found = explain(network, layer, x, labels)
    if as_json:
        print_json({"model": network.spec["name"], **found.to_dict()})
    else:
        _show(found, network.spec["name"], batch_size, source)


def _fresh(
    layer: str | None, depth: int | None, model: str | None, chosen: dict[str, Any], count: int
) -> tuple[Network, Array, Array]:
    """An untrained network that has the layer, and a batch of the built-in images."""
    from minires.analysis.explain import has_kind
    from minires.analysis.explanations import EXPLANATIONS
    from minires.data import compute_normalization
    from minires.data.shapes import draw_shapes
    from minires.models import build, name_for_depth

    free = depth is None and model is None
    network = build(model or name_for_depth(20 if depth is None else depth), **chosen)
    if free and layer in EXPLANATIONS and not has_kind(network, layer):
        explanation = EXPLANATIONS[layer]
        network = build(explanation.model, **{**dict(explanation.options), **chosen})
    images, labels = draw_shapes("train", count)
    pixels = compute_normalization(images)
    return network, _normalised(images, pixels.mean, pixels.std), labels


def _trained(run: Path, data_dir: str | None, count: int) -> tuple[Network, Array, Array]:
    """The network of a run, and a batch of its test images."""
    from minires.training.trained import open_trained

    trained = open_trained(run, data_dir=data_dir, device="cpu")
    images, _ = trained.images("test")
    used = trained.normalization
    x = _normalised(images.images[:count], used.mean, used.std)
    return trained.model(), x, images.labels[:count]


def _normalised(images: Array, mean: Any, std: Any) -> Array:
    """uint8 images (N, 3, H, W) as the network sees them, float32."""
    import numpy as np

    mean, std = (np.asarray(v, np.float32)[None, :, None, None] for v in (mean, std))
    return (images.astype(np.float32) / np.float32(255) - mean) / std


def _list(model: str, places: list[str], as_json: bool) -> None:
    from minires.analysis.explanations import EXPLANATIONS

    if as_json:
        kinds = {name: e.says for name, e in EXPLANATIONS.items()}
        print_json({"model": model, "kinds": kinds, "places": places})
        return
    width = max(map(len, EXPLANATIONS))
    for name, explanation in EXPLANATIONS.items():
        print(f"{name:{width}}  {explanation.says}")
    print(f"\nplaces in {model}:")
    print(click.wrap_text(", ".join(places), 96, "  ", "  "))


def _show(found: Explained, model: str, batch_size: int, source: bool) -> None:
    explanation = found.explanation
    print(f"{found.kind} ({found.place} of {model})")
    print(explanation.says)
    for title, lines in (
        ("forward", explanation.forward),
        ("backward", explanation.backward),
        ("where", explanation.symbols),
    ):
        print()
        for number, line in enumerate(lines):
            print(f"{title if not number else '':9} {line}")
    print()
    settings = ", ".join(f"{name} {value}" for name, value in found.settings.items())
    if settings:
        print(f"settings  {settings}")
    shapes = ", ".join(f"{name} {_shape(shape)}" for name, shape in found.parameters.items())
    print(f"learned   {found.parameter_count:,} parameters{': ' if shapes else ''}{shapes}")
    print(f"work      {found.multiply_adds:,} multiply-adds for one image")
    print(f"\nin one training step on {batch_size} images")
    width = max(map(len, found.live))
    print(f"  {'':{width}}  {'mean':>10}  {'spread':>10}  {'norm':>10}  shape")
    for name, n in found.live.items():
        numbers = "  ".join(f"{value:10.3g}" for value in (n.mean, n.std, n.norm))
        print(f"  {name:{width}}  {numbers}  {_shape(n.shape)}")
    if source:
        for piece in found.sources:
            print(f"\n{piece.file}")
            for offset, line in enumerate(piece.lines):
                print(f"{piece.line + offset:5}  {line}".rstrip())
    print(f"\nread {' and '.join(found.chapters)}")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"
