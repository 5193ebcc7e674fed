"""The picture of a comparison: the curves of all rows in the same axes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minires.atomic import write_atomically
from minires.errors import UsageError
from minires.training.comparison import Row, common_title, mean_and_deviation
from minires.training.curves import GRID

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette without its yellow, which vanishes on paper."""

MARKERS = "osD^vPX*"
"""One more than the colours: the same pair comes back after 56 rows, and grey print tells rows."""

FORMATS = (".png", ".svg", ".pdf")


def check_output(path: Path) -> None:
    """Raise `UsageError` where no picture can be written to `path`."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--output {path}: must end in {', '.join(FORMATS)}")
    if not path.resolve().parent.is_dir():
        raise UsageError(f"--output {path}: its folder does not exist")


def draw_comparison(rows: Sequence[Row], path: Path) -> bool:
    """Draw loss and accuracy of all `rows` over the epochs; False, and no file, without a log.

    Solid lines are the validation, dashed ones the training. Where a row has several runs, the line
    is their mean and the band one standard deviation to each side, in the epochs that all reached.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    drawn = [row for row in rows if any(run.epochs for run in row.runs)]
    if not drawn:
        return False
    lines = 2 + -(-len(drawn) // _columns(drawn))
    figure = Figure(figsize=(10, 4.2 + 0.22 * lines), dpi=130, layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for index, row in enumerate(drawn):
        style = {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)]}
        for axes, what, scale in ((loss, "loss", 1.0), (accuracy, "accuracy", 100.0)):
            _plot(axes, row, f"train_{what}", scale, style, -0.5)
            _plot(axes, row, f"val_{what}", scale, style, 0.0)
    for axes, label in ((loss, "loss"), (accuracy, "accuracy (%)")):
        axes.set_title(label, loc="left", fontsize=11)
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=GRID, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    loss.set_ylim(bottom=0)
    accuracy.set_ylim(top=100)
    _explain(figure, drawn)
    figure.suptitle(common_title(drawn), fontsize=11, x=0.01, ha="left")
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.lower()[1:])
    write_atomically(path, picture.getvalue())
    return True


def _plot(axes: Any, row: Row, key: str, scale: float, style: dict[str, str], shift: float) -> None:
    """One curve of `row`, with its band. The mean over an epoch belongs to the epoch's middle."""
    points = _means(row, key)
    if not points:
        return
    epochs = [epoch + shift for epoch, _ in points]
    means = [scale * value["mean"] for _, value in points]
    training = key.startswith("train")
    axes.plot(
        epochs,
        means,
        color=style["color"],
        marker=None if training else style["marker"],
        markevery=max(1, len(epochs) // 12),
        markersize=5,
        linestyle="--" if training else "-",
        linewidth=0.9 if training else 1.8,
        clip_on=False,
    )
    if not training and any(value["count"] > 1 for _, value in points):
        spread = [scale * value["deviation"] for _, value in points]
        low = [m - d for m, d in zip(means, spread, strict=True)]
        high = [m + d for m, d in zip(means, spread, strict=True)]
        axes.fill_between(epochs, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _means(row: Row, key: str) -> list[tuple[float, dict[str, float]]]:
    """(epoch, mean and deviation) for the epochs that all runs of `row` with a log have reached."""
    values = [
        {epoch["epoch"]: epoch[key] for epoch in run.epochs if epoch.get(key) is not None}
        for run in row.runs
    ]
    values = [run for run in values if run]
    common = sorted(set.intersection(*map(set, values))) if values else []
    return [(epoch, mean_and_deviation(run[epoch] for run in values)) for epoch in common]


def _columns(rows: Sequence[Row]) -> int:
    longest = max(len(_legend(row)) for row in rows)
    return max(1, min(len(rows), 110 // (longest + 8)))


def _legend(row: Row) -> str:
    count = len(row.runs)
    return row.label + (f" ({count} seeds)" if count > 1 else "")


def _explain(figure: Any, rows: Sequence[Row]) -> None:
    """The legend under the axes: the rows first, then what the two kinds of lines are."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=COLORS[i % len(COLORS)], marker=MARKERS[i % len(MARKERS)], lw=1.8)
        for i in range(len(rows))
    ]
    columns = _columns(rows)
    figure.legend(
        handles,
        [_legend(row) for row in rows],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )
    kinds = [Line2D([], [], color="#555555", lw=1.8), Line2D([], [], color="#555555", ls="--")]
    words = ["validation", "training"]
    if any(len(row.runs) > 1 for row in rows):
        kinds.append(Patch(color="#555555", alpha=0.3))
        words.append("one standard deviation over the seeds")
    figure.legend(
        kinds, words, loc="outside upper right", ncols=len(kinds), frameon=False, fontsize=9
    )
