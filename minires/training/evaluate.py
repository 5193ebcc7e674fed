"""Loss and accuracy of a model over a loader, in all and for each class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from minires.backend import Array, array_module, fixed_weights, to_host
from minires.functional.loss import cross_entropy_forward
from minires.nn import convolution_weights
from minires.training.data_parallel import DataParallel

if TYPE_CHECKING:
    from minires.data import Loader
    from minires.nn import Module


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of `images` images.

    `loss` is the mean cross-entropy without label smoothing; `correct` and `counts`, int64 (K,),
    count the right answers and the images of each class.
    """

    loss: float
    images: int
    correct: np.ndarray
    counts: np.ndarray

    @property
    def accuracy(self) -> float:
        """The share of right answers, 0 to 1."""
        return int(self.correct.sum()) / self.images

    def per_class(self, class_names: tuple[str, ...]) -> list[dict]:
        """One record per class: name, images, correct, accuracy (None where there are none)."""
        rows = zip(class_names, self.correct.tolist(), self.counts.tolist(), strict=True)
        return [
            {"name": name, "images": n, "correct": hits, "accuracy": hits / n if n else None}
            for name, hits, n in rows
        ]


def evaluate(
    model: Module,
    loader: Loader,
    num_classes: int,
    on_batch: Callable[[int, int], None] | None = None,
    tta: bool = False,
) -> Evaluation:
    """Run `model` in evaluation mode over one pass of `loader`; its mode is restored afterwards.

    `on_batch(done, batches)` is called after each batch; what it raises ends the evaluation. The
    sums stay on the device until the end. `tta` (test-time augmentation) takes the mean of the
    logits of each image and of its mirror.
    """
    if not isinstance(model, DataParallel):
        with DataParallel(model, loader.batch_size) as network:
            return evaluate(network, loader, num_classes, on_batch, tta)
    was_training = model.training
    model.eval()
    loss_sum, correct, counts, images = 0.0, 0, 0, 0
    try:
        with fixed_weights(convolution_weights(model)):
            for done, (x, labels) in enumerate(loader.epoch(0), start=1):
                logits = logits_of(model, x, tta)
                xp = array_module(logits)
                loss, _ = cross_entropy_forward(logits, labels)
                loss_sum = loss_sum + loss.astype(np.float64) * len(labels)
                members = labels[:, None] == xp.arange(num_classes)  # (B, K)
                hits = logits.argmax(axis=1) == labels
                correct = correct + (members & hits[:, None]).sum(axis=0)
                counts = counts + members.sum(axis=0)
                images += len(labels)
                if on_batch is not None:
                    on_batch(done, len(loader))
    finally:
        model.train(was_training)
    return Evaluation(float(loss_sum) / images, images, to_host(correct), to_host(counts))


def logits_of(model: Module, x: Array, tta: bool = False) -> Array:
    """The logits (N, K) of images x (N, C, H, W); with `tta`, the mean with those of the mirror."""
    logits = model(x)
    if not tta:
        return logits
    return (logits + model(array_module(x).ascontiguousarray(x[..., ::-1]))) / 2
