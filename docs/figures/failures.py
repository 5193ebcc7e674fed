"""The figures of chapter 13: what curves look like when a training is sound, and when it is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from style import BLUE, GREY, RED, figure

from minires.training.config import TrainConfig
from minires.training.evaluate import evaluate
from minires.training.setup import make_eval_loader, make_train_loader, schedule_of
from minires.training.throwaway import Throwaway

SOUND = TrainConfig(
    model="resnet8",
    width=0.5,
    dataset="shapes",
    limit=3000,
    batch_size=64,
    epochs=16,
    optimizer="adam",
    lr=0.005,
    weight_decay=0.0,
    augment=False,
    threads=1,
)
CLASSES = 10


def course(config: TrainConfig, wrong: float = 0.0) -> tuple[list[float], list[float]]:
    """The training loss and validation loss of each epoch; a share of the labels is `wrong`."""
    training = Throwaway(config)
    data, images = training.data, training.images
    if wrong:
        labels = images.labels.copy()
        random = np.random.default_rng(0)
        chosen = np.flatnonzero(random.random(len(labels)) < wrong)
        labels[chosen] = (labels[chosen] + random.integers(1, CLASSES, len(chosen))) % CLASSES
        images = replace(images, labels=labels)
    loaders = [
        make(config, images, indices, training.device, data.normalization)
        for make, indices in (
            (make_train_loader, data.train_indices),
            (make_eval_loader, data.val_indices),
        )
    ]
    schedule = schedule_of(config, config.epochs * len(loaders[0]))
    train, validation = [], []
    for epoch in range(config.epochs):
        losses = []
        for batch in loaders[0].epoch(epoch):
            losses.append(float(training.forward_backward(*batch)[0]))
            training.update(schedule(training.steps))
        train.append(float(np.mean(losses)))
        validation.append(evaluate(training.model, loaders[1], CLASSES).loss)
    return train, validation


@figure
def typical_curves() -> Figure:
    """Six trainings on drawn shapes: one sound, five with a fault."""
    few = replace(SOUND, limit=600, val_split=400, batch_size=20, epochs=30)
    cases = [
        ("sound", SOUND, 0.0),
        ("rate far too low", replace(SOUND, lr=1e-6), 0.0),
        ("rate far too high", replace(SOUND, lr=1.0, schedule="constant"), 0.0),
        ("only 200 images", few, 0.0),
        ("half of the labels wrong", SOUND, 0.5),
        ("network far too small", replace(SOUND, width=0.125), 0.0),
    ]
    fig = Figure(figsize=(7.8, 4.8))
    axes = fig.subplots(2, 3, sharey=True, gridspec_kw={"hspace": 0.4, "wspace": 0.1})
    for ax, (title, config, wrong) in zip(axes.flat, cases, strict=True):
        train, validation = course(config, wrong)
        epochs = np.arange(1, config.epochs + 1)
        ax.axhline(np.log(CLASSES), color=GREY, linewidth=0.8, linestyle=":")
        ax.plot(epochs, train, "o-", color=BLUE, markersize=3, label="training")
        ax.plot(epochs, validation, "s--", color=RED, markersize=3, label="validation")
        ax.set_title(title)
        ax.set_ylim(0, 3.2)
        ax.set_xticks([1, config.epochs // 2, config.epochs])
    axes[0, 0].legend(frameon=False, loc="lower left", fontsize=9)
    for ax in axes[1]:
        ax.set_xlabel("epoch")
    for ax in axes[:, 0]:
        ax.set_ylabel("loss")
    return fig
