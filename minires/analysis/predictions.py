"""What a trained network answers for every image of a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from minires.analysis.metrics import confusion_matrix, softmax
from minires.backend import to_host
from minires.data import Dataset
from minires.training.evaluate import logits_of
from minires.training.trained import Trained


@dataclass(frozen=True)
class Predictions:
    """The logits float32 (N, K) of the images `indices` of `images`; what follows from them."""

    images: Dataset
    split: str
    indices: np.ndarray
    logits: np.ndarray

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the K classes."""
        return self.images.class_names

    @cached_property
    def labels(self) -> np.ndarray:
        """The true classes, int64 (N,)."""
        return to_host(self.images.labels)[self.indices]

    @cached_property
    def probabilities(self) -> np.ndarray:
        """The softmax of the logits, float64 (N, K)."""
        return softmax(self.logits)

    @cached_property
    def answers(self) -> np.ndarray:
        """The class with the largest logit, int64 (N,)."""
        return self.logits.argmax(axis=1)

    @cached_property
    def confidence(self) -> np.ndarray:
        """The probability of the answer, float64 (N,)."""
        return self.probabilities[np.arange(len(self.answers)), self.answers]

    @cached_property
    def correct(self) -> np.ndarray:
        """Which answers are right, bool (N,)."""
        return self.answers == self.labels

    @property
    def accuracy(self) -> float:
        """The share of right answers, 0 to 1."""
        return float(self.correct.mean())

    @cached_property
    def confusion(self) -> np.ndarray:
        """Images of class i (row) taken for class j (column), int64 (K, K)."""
        return confusion_matrix(self.labels, self.answers, len(self.class_names))


def predict_split(
    trained: Trained,
    split: str = "test",
    batch_size: int = 250,
    on_batch: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Ask the network about every image of `split`, with its mirror where the run does so.

    `on_batch(done, batches)` is called after each batch. Raises what `Trained.images` does.
    """
    images, indices = trained.images(split)
    model = trained.model().eval()
    loader = trained.loader(images, indices, batch_size)
    parts = []
    for x, _ in loader.epoch(0):
        parts.append(to_host(logits_of(model, x, trained.config.tta)).copy())
        if on_batch is not None:
            on_batch(len(parts), len(loader))
    return Predictions(images, split, indices, np.concatenate(parts))
