"""The picture of a run: loss, accuracy and learning rate over the epochs."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

# Okabe and Ito's palette: told apart by every common kind of colour vision.
TRAIN, VALIDATION, RATE, BEST = "#0072B2", "#D55E00", "#009E73", "#000000"
GRID = "#d8d8d8"


def draw_curves(records: list[dict[str, Any]], path: Path, title: str = "") -> None:
    """Draw the log `records` of a run as a PNG at `path`; the old picture stays until it is whole.

    records: lines of the log; "step" lines give thin curves, "epoch" lines thick ones. `OSError`
    if `path` cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps = [r for r in records if r["kind"] == "step"]
    epochs = [r for r in records if r["kind"] == "epoch"]
    test = next((r for r in records if r["kind"] == "test"), None)
    if not steps and not epochs:
        return
    figure = Figure(figsize=(11, 3.6), dpi=130, layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    _plot(loss, steps, epochs, "loss", 1.0)
    _plot(accuracy, steps, epochs, "accuracy", 100.0)
    _mark_best(accuracy, epochs)
    if test is not None:
        accuracy.axhline(100 * test["accuracy"], color=BEST, linewidth=1, linestyle=":", zorder=1)
        accuracy.plot([], [], color=BEST, linestyle=":", label=f"test {test['accuracy']:.2%}")
    points = sorted((*steps, *epochs), key=lambda r: r["step"])
    rate.plot([r["progress"] for r in points], [r["lr"] for r in points], color=RATE)
    for axes, label in ((loss, "loss"), (accuracy, "accuracy (%)"), (rate, "learning rate")):
        axes.set_title(label, loc="left", fontsize=11)
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=GRID, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    loss.set_ylim(bottom=0)
    rate.set_ylim(bottom=0)
    accuracy.set_ylim(top=100)
    loss.legend(frameon=False)
    accuracy.legend(frameon=False, loc="lower right")
    if title:
        figure.suptitle(title, fontsize=11)
    _write(figure, path)


def _plot(axes: Any, steps: list[dict], epochs: list[dict], what: str, scale: float) -> None:
    """The curves of training (thin by step, thick by epoch) and validation, scaled by `scale`."""
    if steps:
        values = [scale * r[what] for r in steps]
        axes.plot([r["progress"] for r in steps], values, color=TRAIN, alpha=0.35, linewidth=0.8)
    for key, color, marker, label in (
        (f"train_{what}", TRAIN, "o", "training"),
        (f"val_{what}", VALIDATION, "s", "validation"),
    ):
        rows = [r for r in epochs if r.get(key) is not None]
        if rows:
            axes.plot(
                [r["progress"] for r in rows],
                [scale * r[key] for r in rows],
                color=color,
                marker=marker if len(rows) <= 40 else None,
                markersize=4,
                label=label,
                clip_on=False,
            )


def _mark_best(axes: Any, epochs: list[dict]) -> None:
    rows = [r for r in epochs if r.get("val_accuracy") is not None]
    if rows:
        best = max(rows, key=lambda r: r["val_accuracy"])
        axes.plot(
            best["progress"],
            100 * best["val_accuracy"],
            marker="*",
            markersize=12,
            color=BEST,
            linestyle="none",
            label=f"best validation {best['val_accuracy']:.2%}",
        )


def _write(figure: Any, path: Path) -> None:
    """Save `figure` beside `path` and rename it, so that a viewer never sees half a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(buffer.getvalue())
    os.replace(temporary, path)
