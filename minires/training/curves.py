"""The picture of a run: loss, accuracy and learning rate over the epochs."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minires.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


GRID = "#d8d8d8"


@dataclass(frozen=True)
class Colors:
    """Okabe and Ito's palette: told apart by every common kind of colour vision."""

    train: str = "#0072B2"
    validation: str = "#D55E00"
    rate: str = "#009E73"
    best: str = "#000000"
    grid: str = GRID


COLORS = Colors()


def draw_curves(records: list[dict[str, Any]], path: Path, title: str = "") -> None:
    """Draw the log `records` of a run as a PNG at `path`; the old picture stays until it is whole.

    records: lines of the log; "step" lines give thin curves, "epoch" lines thick ones. `OSError`
    if `path` cannot be written.
    """
    figure = curves_figure(records, title)
    if figure is None:
        return
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=130)
    write_atomically(path, png.getvalue())


def curves_figure(
    records: list[dict[str, Any]], title: str = "", colors: Colors = COLORS
) -> Figure | None:
    """The curves of the log `records` as a figure; None where nothing has been logged."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps = [r for r in records if r["kind"] == "step"]
    epochs = [r for r in records if r["kind"] == "epoch"]
    test = next((r for r in records if r["kind"] == "test"), None)
    if not steps and not epochs:
        return None
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    _plot(loss, steps, epochs, "loss", 1.0, colors)
    _plot(accuracy, steps, epochs, "accuracy", 100.0, colors)
    _mark_best(accuracy, epochs, colors)
    if test is not None:
        accuracy.axhline(
            100 * test["accuracy"], color=colors.best, linewidth=1, linestyle=":", zorder=1
        )
        accuracy.plot(
            [], [], color=colors.best, linestyle=":", label=f"test {test['accuracy']:.2%}"
        )
    points = sorted((*steps, *epochs), key=lambda r: r["step"])
    rate.plot([r["progress"] for r in points], [r["lr"] for r in points], color=colors.rate)
    for axes, label in ((loss, "loss"), (accuracy, "accuracy (%)"), (rate, "learning rate")):
        axes.set_title(label, loc="left", fontsize=11)
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=colors.grid, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    loss.set_ylim(bottom=0)
    rate.set_ylim(bottom=0)
    accuracy.set_ylim(top=100)
    for axes in (loss, accuracy) if epochs else ():
        axes.legend(framealpha=0.85, edgecolor="none")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _plot(
    axes: Any, steps: list[dict], epochs: list[dict], what: str, scale: float, colors: Colors
) -> None:
    """The curves of training (thin by step, thick by epoch) and validation, scaled by `scale`."""
    if steps:
        values = [scale * r[what] for r in steps]
        axes.plot(
            [r["progress"] for r in steps], values, color=colors.train, alpha=0.35, linewidth=0.8
        )
    # The mean over an epoch belongs to its middle, the validation to its end.
    for key, color, marker, label, shift in (
        (f"train_{what}", colors.train, "o", "training", -0.5),
        (f"val_{what}", colors.validation, "s", "validation", 0.0),
    ):
        rows = [r for r in epochs if r.get(key) is not None]
        if rows:
            axes.plot(
                [r["progress"] + shift for r in rows],
                [scale * r[key] for r in rows],
                color=color,
                marker=marker if len(rows) <= 40 else None,
                markersize=4,
                label=label,
                clip_on=False,
            )


def _mark_best(axes: Any, epochs: list[dict], colors: Colors) -> None:
    rows = [r for r in epochs if r.get("val_accuracy") is not None]
    if rows:
        best = max(rows, key=lambda r: r["val_accuracy"])
        axes.plot(
            best["progress"],
            100 * best["val_accuracy"],
            marker="*",
            markersize=12,
            color=colors.best,
            linestyle="none",
            label=f"best validation {best['val_accuracy']:.2%}",
        )
