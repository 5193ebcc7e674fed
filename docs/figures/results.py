"""The figures of chapter 16: chance in a test set, trainings, answers to the same images."""

from __future__ import annotations

import json
from math import lgamma
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import BLUE, GREEN, GREY, INK, ORANGE, RED, TINT, figure

DOCS = Path(__file__).resolve().parent.parent

FORTY = "results/resnet20-40-epochs/history.jsonl"
RESIDUAL = "results/resnet20-6-epochs-seed0/history.jsonl"
PLAIN = "results/plain20-6-epochs-seed0/history.jsonl"

PAIRS = (
    (
        ("without shortcuts", "results/plain20-6-epochs-seed0/answers.json"),
        ("with shortcuts", "results/resnet20-6-epochs-seed0/answers.json"),
    ),
    (
        ("ImageNet's stem", "results/resnet20-6-epochs-imagenet-stem/answers.json"),
        ("CIFAR's stem", "results/resnet20-6-epochs-seed0/answers.json"),
    ),
    (
        ("padded with black", "results/resnet20-6-epochs-black-padding/answers.json"),
        ("with the mean colour", "results/resnet20-6-epochs-seed0/answers.json"),
    ),
    (
        ("direct, seed 0", "results/resnet20-6-epochs-seed0-direct/answers.json"),
        ("Winograd, seed 0", "results/resnet20-6-epochs-seed0/answers.json"),
    ),
    (
        ("direct, seed 1", "results/resnet20-6-epochs-seed1-direct/answers.json"),
        ("Winograd, seed 1", "results/resnet20-6-epochs-seed1/answers.json"),
    ),
    (
        ("seed 0", "results/resnet20-6-epochs-seed0/answers.json"),
        ("seed 1", "results/resnet20-6-epochs-seed1/answers.json"),
    ),
    (
        ("6 epochs", "results/resnet20-6-epochs-seed0/answers.json"),
        ("40 epochs", "results/resnet20-40-epochs/answers.json"),
    ),
)


def binomial(images: int, p: float) -> np.ndarray:
    """The probability of 0, 1, ... `images` right answers, float64 (images + 1,)."""
    right = np.arange(images + 1)
    ways = [lgamma(images + 1) - lgamma(k + 1) - lgamma(images - k + 1) for k in right]
    return np.exp(ways + right * np.log(p) + (images - right) * np.log(1 - p))


@figure
def test_set_luck() -> Figure:
    """How probable each accuracy is for a network with p = 0.9, on test sets of three sizes."""
    fig = Figure(figsize=(7.4, 3.3))
    rows = fig.subplots(3, 1, sharex=True, gridspec_kw={"hspace": 0.2})
    for ax, images in zip(rows, (100, 1_000, 10_000), strict=True):
        height = binomial(images, 0.9)
        error = (0.9 * 0.1 / images) ** 0.5
        seen = np.flatnonzero(height > 1e-3 * height.max())
        share, height = seen / images, height[seen] / height.max()
        ax.fill_between(share, height, step="mid", color=BLUE, linewidth=0)
        ax.axvspan(0.9 - 1.96 * error, 0.9 + 1.96 * error, color=TINT[ORANGE], zorder=0)
        ax.set_ylim(0, 1.12)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.text(0.783, 0.62, f"{images:,} images", va="center")
        ax.text(0.783, 0.32, f"standard error {error:.2%}", va="center", fontsize=9, color=GREY)
    rows[-1].set_xlim(0.78, 1.0)
    rows[-1].set_xticks(np.arange(0.80, 1.001, 0.05), ["80%", "85%", "90%", "95%", "100%"])
    rows[-1].set_xlabel("accuracy on the test set")
    return fig


def epochs(name: str) -> list[dict]:
    """The lines of a log that end an epoch."""
    lines = (json.loads(line) for line in (DOCS / name).read_text().splitlines())
    return [line for line in lines if line["kind"] == "epoch"]


def steps(name: str) -> tuple[list[float], list[float]]:
    """The learning rate over the epochs, from the lines of all steps that were logged."""
    lines = [json.loads(line) for line in (DOCS / name).read_text().splitlines()]
    kept = [line for line in lines if "lr" in line]
    return [line["progress"] for line in kept], [line["lr"] for line in kept]


def _accuracy(ax: Axes, name: str, key: str, color: str, line: str, text: str) -> None:
    log = epochs(name)
    before = 0.5 if key.startswith("train") else 0  # a mean over the epoch, against its end
    x, y = [e["epoch"] - before for e in log], [100 * e[key] for e in log]
    ax.plot(x, y, line, color=color, label=text, marker="o" if len(x) < 10 else "", markersize=4)


@figure
def trainings() -> Figure:
    """Accuracy and learning rate: 40 epochs of ResNet-20; plain and residual in six epochs."""
    fig = Figure(figsize=(8.4, 4.3))
    (forty, six), (forty_rate, six_rate) = fig.subplots(
        2, 2, sharex="col", gridspec_kw={"height_ratios": [3, 1], "hspace": 0.1, "wspace": 0.2}
    )
    _accuracy(forty, FORTY, "train_accuracy", BLUE, "--", "training")
    _accuracy(forty, FORTY, "val_accuracy", BLUE, "-", "validation")
    for name, color, text in ((RESIDUAL, BLUE, "residual"), (PLAIN, RED, "plain")):
        _accuracy(six, name, "train_accuracy", color, "--", f"{text}, training")
        _accuracy(six, name, "val_accuracy", color, "-", f"{text}, validation")
    for ax, title in ((forty, "ResNet-20, 40 epochs"), (six, "20 layers, 6 epochs")):
        ax.set_title(title)
        ax.set_ylabel("accuracy in percent")
        ax.grid(axis="y", color="#eeeeee")
        ax.legend(frameon=False, fontsize=9.5, loc="lower right")
    for ax, name in ((forty_rate, FORTY), (six_rate, RESIDUAL)):
        x, y = steps(name)
        ax.fill_between(x, y, color=TINT[GREY])
        ax.plot(x, y, color=GREY, linewidth=1.2)
        ax.set_ylim(0, 0.23)
        ax.set_yticks([0, 0.2])
        ax.set_ylabel("rate")
        ax.set_xlabel("epoch")
    six.set_xlim(0, 6.2)
    six.set_ylim(8, 90)
    return fig


@figure
def degradation() -> Figure:
    """Accuracy in ten epochs of 20 and 56 layers, without shortcuts and with them."""
    fig = Figure(figsize=(8.4, 3.6))
    panels = fig.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})
    for ax, kind, title in zip(panels, ("plain", "resnet"), ("plain", "residual"), strict=True):
        for depth, color in ((20, BLUE), (56, RED)):
            name = f"results/cnn-vs-resnet-{kind}{depth}/history.jsonl"
            _accuracy(ax, name, "train_accuracy", color, "--", f"{depth} layers, training")
            _accuracy(ax, name, "val_accuracy", color, "-", f"{depth} layers, validation")
        ax.set_title(title)
        ax.set_xlabel("epoch")
        ax.set_xlim(0, 10.3)
        ax.set_ylim(8, 92)
        ax.grid(axis="y", color="#eeeeee")
        ax.legend(frameon=False, fontsize=9.5, loc="lower right")
    panels[0].set_ylabel("accuracy in percent")
    return fig


def right(name: str) -> np.ndarray:
    """Which test images are answered right, bool (N,)."""
    text = json.loads((DOCS / name).read_text())
    bits = np.frombuffer(bytes.fromhex(text["right"]), np.uint8)
    return np.unpackbits(bits)[: text["images"]].astype(bool)


@figure
def same_images() -> Figure:
    """For pairs of networks: the test images that only one of them answers right."""
    fig = Figure(figsize=(7.0, 3.9))
    ax = fig.add_subplot()
    for row, ((first, first_file), (second, second_file)) in enumerate(PAIRS):
        a, b = right(first_file), right(second_file)
        ours, theirs = int((a & ~b).sum()), int((b & ~a).sum())
        ax.barh(row, -ours, color=ORANGE, height=0.56)
        ax.barh(row, theirs, color=GREEN, height=0.56)
        ax.text(-ours - 15, row, f"{ours}", ha="right", va="center", fontsize=9.5)
        ax.text(theirs + 15, row, f"{theirs:,}", ha="left", va="center", fontsize=9.5)
        ax.text(-700, row, first, ha="right", va="center")
        ax.text(1800, row, second, ha="left", va="center")
    ax.axvline(0, color=INK, linewidth=1)
    ax.set_xlim(-650, 1750)
    ax.set_ylim(len(PAIRS) - 0.5, -1.0)
    ax.text(-40, -0.65, "right on the left only", ha="right", color=GREY)
    ax.text(40, -0.65, "right on the right only", ha="left", color=GREY)
    ax.set_xticks([-500, 0, 500, 1000, 1500], ["500", "0", "500", "1,000", "1,500"])
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("test images, of 10,000")
    return fig
