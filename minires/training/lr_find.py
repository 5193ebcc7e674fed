"""The learning-rate range test: a rate that rises by a constant factor until the loss explodes.

Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3, with the
smoothed loss and the steepest point of fastai's `lr_find`.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minires.atomic import write_atomically
from minires.errors import UsageError
from minires.training.config import TrainConfig
from minires.training.throwaway import Throwaway

SMOOTHING = 0.9
"""The share of the old mean in the smoothed loss."""

EXPLODED = 4.0
"""The test ends where the smoothed loss is so many times its smallest value."""

SKIPPED = 0.1
"""The share of the steps at the beginning in which the smoothed loss is still settling."""

WINDOW = 0.05
"""A slope is that of a line fitted to the points on both sides, this share of the steps each."""


@dataclass(frozen=True)
class RangeTest:
    """What the test saw: one rate, loss and smoothed loss for each step made.

    `suggestion` is the rate where the smoothed loss falls fastest, None if it never fell; `lowest`
    is the rate of the smallest smoothed loss, the first steps left out. `exploded`: the loss ended
    the test.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None
    lowest: float
    exploded: bool

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def find_lr(
    config: TrainConfig,
    lowest: float = 1e-5,
    highest: float = 10.0,
    steps: int = 200,
    on_step: Callable[[int, float, float], None] | None = None,
) -> RangeTest:
    """Train a throwaway model for `steps` steps with rates from `lowest` to `highest`.

    Everything but the rate is as `config` says. `on_step(step, rate, loss)` is called after each.
    Raises `UsageError` for a range that does not rise or fewer than 10 steps.
    """
    if not 0 < lowest < highest < math.inf:
        raise UsageError(f"--from {lowest:g} --to {highest:g}: must rise from above 0")
    if steps < 10:
        raise UsageError(f"--steps {steps}: must be at least 10")
    rates: list[float] = []
    losses: list[float] = []
    factor = (highest / lowest) ** (1 / (steps - 1))
    exploded = False
    with Throwaway(config, shared=True) as training, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # overflow is what is looked for
        for step, batch in zip(range(steps), training.batches(), strict=False):
            rate = lowest * factor**step
            loss = float(training.forward_backward(*batch)[0])
            if not math.isfinite(loss):
                exploded = True
                break
            rates.append(rate)
            losses.append(loss)
            smoothed = smooth(losses)
            if step >= 10 and smoothed[-1] > EXPLODED * min(smoothed):
                exploded = True
                break
            training.update(rate)
            if on_step is not None:
                on_step(step + 1, rate, smoothed[-1])
    if not losses:
        raise UsageError("the loss of the untrained network is not finite; see sanity")
    smoothed = smooth(losses)
    lowest_place = settled(smoothed) + int(np.argmin(smoothed[settled(smoothed) :]))
    suggestion = steepest(rates, smoothed)
    return RangeTest(rates, losses, smoothed, suggestion, rates[lowest_place], exploded)


def smooth(losses: list[float], share: float = SMOOTHING) -> list[float]:
    """m_t / (1 - share^t) with m_t = share * m_(t-1) + (1 - share) * loss_t."""
    mean, result = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = share * mean + (1 - share) * loss
        result.append(mean / (1 - share**step))
    return result


def settled(smoothed: list[float]) -> int:
    """The first step whose smoothed loss is not a mean of only a few."""
    return int(SKIPPED * len(smoothed))


def steepest(rates: list[float], smoothed: list[float]) -> float | None:
    """The rate where `smoothed` falls fastest against log(rate), before its smallest value.

    None where it does not fall.
    """
    first = settled(smoothed)
    last = first + int(np.argmin(smoothed[first:]))
    half = max(2, round(WINDOW * len(smoothed)))
    slopes = {}
    for place in range(first, last):
        window = slice(max(place - half, first), place + half + 1)
        slopes[place] = np.polyfit(np.log(rates[window]), smoothed[window], 1)[0]
    place = min(slopes, key=slopes.get, default=None)
    return rates[place] if place is not None and slopes[place] < 0 else None


def draw_range_test(result: RangeTest, path: Path, title: str = "") -> None:
    """Draw loss over rate as a PNG at `path`, with the suggestion marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.plot(result.rates, result.losses, color="#0072B2", alpha=0.35, linewidth=0.8)
    axes.plot(result.rates, result.smoothed, color="#0072B2", label="loss, smoothed")
    if result.suggestion is not None:
        place = result.rates.index(result.suggestion)
        axes.plot(
            result.suggestion,
            result.smoothed[place],
            marker="o",
            color="#D55E00",
            linestyle="none",
            label=f"steepest: {result.suggestion:.2g}",
        )
    place = result.rates.index(result.lowest)
    axes.plot(
        result.lowest,
        result.smoothed[place],
        marker="s",
        color="#009E73",
        linestyle="none",
        label=f"lowest: {result.lowest:.2g}",
    )
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    low = min(result.smoothed[settled(result.smoothed) :])
    start = max(result.smoothed[: max(len(result.smoothed) // 4, 1)])
    axes.set_ylim(max(low - 0.25 * (start - low) - 0.05, 0), start + 0.6 * (start - low) + 0.1)
    axes.grid(color="#d8d8d8", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(framealpha=0.85, edgecolor="none")
    if title:
        axes.set_title(title, loc="left", fontsize=11)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    write_atomically(path, png.getvalue())
