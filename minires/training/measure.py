"""The measurement of a run's weights, from its folder or a checkpoint file alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minires.training.evaluate import evaluate
from minires.training.trained import open_trained


@dataclass(frozen=True)
class Measurement:
    """Accuracy (0 to 1), mean loss, and a record for each class."""

    accuracy: float
    loss: float
    images: int
    correct: int
    per_class: list[dict]
    split: str
    dataset: str
    checkpoint: str
    tta: bool

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def measure(
    run: Path,
    checkpoint: str | None = None,
    split: str = "test",
    dataset: str | None = None,
    data_dir: str | None = None,
    batch_size: int = 250,
    device: str = "auto",
    threads: int | None = None,
    tta: bool | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Measure the weights of `run` (a folder or a checkpoint file) on one split of its data.

    checkpoint: "best", "last" or a file; None: best, else last. split: "test", "train" or "val";
    the last two are the images that the run trained on and held out. tta: take the mean over each
    image and its mirror; None: as the run does. The images are normalised
    as the weights expect. Raises `CheckpointError`, `DataError`, `UsageError`.
    """
    trained = open_trained(run, checkpoint, dataset, data_dir, device, threads)
    images, indices = trained.images(split)
    model = trained.model()
    loader = trained.loader(images, indices, batch_size)
    tta = trained.config.tta if tta is None else tta
    result = evaluate(model, loader, len(images.class_names), on_batch, tta)
    return Measurement(
        accuracy=result.accuracy,
        loss=result.loss,
        images=result.images,
        correct=int(result.correct.sum()),
        per_class=result.per_class(images.class_names),
        split=split,
        dataset=images.name,
        checkpoint=str(trained.path),
        tta=tta,
    )
