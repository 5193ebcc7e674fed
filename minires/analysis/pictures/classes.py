"""How well each class is known: accuracy with its uncertainty, precision, the usual mistake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.analysis.metrics import wilson_interval
from minires.analysis.pictures.style import Theme, heading, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_classes(
    theme: Theme, matrix: np.ndarray, class_names: Sequence[str], title: str
) -> Figure:
    """A row for each class, the best known first.

    matrix: int64 (K, K), images of class i (row) taken for class j (column). The circle is the
    share of the class's images that were recognised, with the interval that holds the true share
    with 95% confidence; the diamond is the precision, the share of right ones among the answers.
    """
    from matplotlib.ticker import PercentFormatter

    hits, images, answers = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):
        accuracy, precision = hits / images, hits / answers
    order = np.argsort(-np.nan_to_num(accuracy, nan=-1.0), kind="stable")
    low, high = wilson_interval(hits, images)
    figure = new_figure(8.2, 1.7 + 0.36 * len(class_names))
    axes = figure.subplots()
    rows = np.arange(len(order))
    whiskers = np.nan_to_num(np.abs(np.stack([accuracy - low, high - accuracy])))
    axes.errorbar(
        accuracy[order],
        rows - 0.12,
        xerr=whiskers[:, order],
        fmt="o",
        color=theme.right,
        markersize=7,
        capsize=3,
        elinewidth=1.6,
        label="accuracy (recall), 95% interval",
    )
    axes.plot(precision[order], rows + 0.18, "D", color=theme.wrong, ms=5.5, label="precision")
    total = hits.sum() / images.sum()
    axes.axvline(total, color=theme.ink, linewidth=1, linestyle=":", label=f"all: {total:.2%}")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    for row, index in enumerate(order):
        axes.annotate(
            _errors_of(matrix, class_names, index),
            (1.02, row),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=8.5,
            color=theme.muted,
        )
    axes.set_yticks(rows, [class_names[index] for index in order])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    axes.grid()
    handles, labels = axes.get_legend_handles_labels()
    chosen = [labels.index(label) for label in sorted(labels)]
    figure.legend(
        [handles[k] for k in chosen],
        [labels[k] for k in chosen],
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    heading(figure, title, f"{images.sum():,} images")
    return figure


def class_records(matrix: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Name, images, accuracy and precision of each class; None for a share of nothing."""
    hits, images, answers = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    return [
        {
            "name": name,
            "images": int(images[k]),
            "accuracy": float(hits[k] / images[k]) if images[k] else None,
            "precision": float(hits[k] / answers[k]) if answers[k] else None,
        }
        for k, name in enumerate(class_names)
    ]


def _errors_of(matrix: np.ndarray, class_names: Sequence[str], index: int) -> str:
    """For example "7.1% are taken for dog": the most frequent error with this class."""
    errors = matrix[index].copy()
    errors[index] = 0
    worst = int(errors.argmax())
    if not errors[worst]:
        return ""
    return f"{errors[worst] / matrix[index].sum():.1%} taken for {class_names[worst]}"
