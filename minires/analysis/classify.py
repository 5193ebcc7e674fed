"""What a trained network makes of image files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from minires.analysis.gradcam import gradcam
from minires.analysis.image_files import images_in, read_image
from minires.analysis.metrics import softmax
from minires.analysis.pictures.overlay import overlay
from minires.analysis.sample import normalized
from minires.atomic import write_atomically
from minires.backend import to_host
from minires.errors import CheckpointError, DataError, UsageError
from minires.models.network import Network
from minires.training.evaluate import logits_of
from minires.training.trained import Trained

BATCH = 64
OVERLAY_SIDE = 256
"""Pixels per side of a Grad-CAM picture."""


@dataclass(frozen=True)
class Answer:
    """The most probable classes of a file with their probabilities, the answer first.

    `overlay` is the Grad-CAM picture that was written, if any.
    """

    file: Path
    top: tuple[tuple[str, float], ...]
    overlay: Path | None = None


@dataclass(frozen=True)
class Skipped:
    """A file or folder that has no answer, and why."""

    file: Path
    reason: str


@dataclass(frozen=True)
class _Read:
    file: Path
    image: np.ndarray  # uint8 (3, 32, 32)


def classify(
    trained: Trained,
    paths: Iterable[Path],
    *,
    fit: str = "crop",
    top: int = 5,
    overlays: Path | None = None,
    layer: str | None = None,
) -> Iterator[Answer | Skipped]:
    """An answer, or the reason that there is none, for each of `paths`, files and folders.

    The images are fitted to the network's size (`image_files.read_image`) and normalised as the
    weights expect; where the run does so, the mean with the mirrored image is taken. `overlays` is
    a folder, made if need be, that gets a Grad-CAM picture of each image at `layer`. Raises
    `UsageError` for a folder that cannot be made and a layer that there is not, and
    `CheckpointError` where the network's answer is not finite.
    """
    if overlays is not None:
        try:
            overlays.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--gradcam {overlays}: {error.strerror}") from error
    model = trained.model().eval()
    written: set[Path] = set()
    items = _read_all(paths, fit)
    while chunk := list(islice(items, BATCH)):
        images = [item for item in chunk if isinstance(item, _Read)]
        answers = iter(_answers(trained, model, images, top, layer, overlays is not None))
        for item in chunk:
            if isinstance(item, Skipped):
                yield item
                continue
            best, heat = next(answers)
            picture = None
            if overlays is not None:
                picture = _free_name(overlays, item.file, written)
                _write_overlay(picture, read_image(item.file, OVERLAY_SIDE, fit), heat)
            yield Answer(item.file, best, picture)


def _read_all(paths: Iterable[Path], fit: str) -> Iterator[_Read | Skipped]:
    for path in paths:
        files = [path]
        if path.is_dir():
            try:
                files = images_in(path)
            except OSError as error:
                yield Skipped(path, f"cannot be read ({error.strerror})")
                continue
            if not files:
                yield Skipped(path, "holds no PNG or JPEG file")
        for file in files:
            try:
                yield _Read(file, read_image(file, fit=fit))
            except DataError as error:
                yield Skipped(file, str(error))


def _answers(
    trained: Trained,
    model: Network,
    images: Sequence[_Read],
    top: int,
    layer: str | None,
    with_heat: bool,
) -> Iterator[tuple[tuple[tuple[str, float], ...], np.ndarray | None]]:
    """The best classes of each image, and its heat (h, w) if it is wanted."""
    if not images:
        return
    pixels = np.stack([read.image for read in images])
    names = trained.class_names
    x = normalized(trained, pixels)
    probabilities = softmax(to_host(logits_of(model.eval(), x, trained.config.tta)))
    if not np.isfinite(probabilities).all():
        raise CheckpointError(f"{trained.path}: gives no finite answer; the training has diverged")
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    heat = [None] * len(pixels)
    if with_heat:
        heat = gradcam(model, x, best[:, 0], layer).heat
    for row, places, map_ in zip(probabilities, best, heat, strict=True):
        yield tuple((names[k], float(row[k])) for k in places), map_


def _free_name(folder: Path, file: Path, taken: set[Path]) -> Path:
    """folder/NAME-gradcam.png, with a number where two files of this call share the name."""
    picture, number = folder / f"{file.stem}-gradcam.png", 1
    while picture in taken:
        number += 1
        picture = folder / f"{file.stem}-{number}-gradcam.png"
    taken.add(picture)
    return picture


def _write_overlay(path: Path, image: np.ndarray, heat: np.ndarray) -> None:
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(overlay(image, heat)).save(png, "PNG")
    write_atomically(path, png.getvalue())
