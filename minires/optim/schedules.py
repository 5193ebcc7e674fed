"""Learning rates as pure functions of the step: nothing is kept, so a resumed run needs no state.

Warm-up of W steps rises in a straight line, lr * (step + 1) / W, and reaches the full rate in its
last step. The step counts from 0; `total_steps` is the number of steps of the whole training.
Steps after the last one keep the last one's rate.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from minires.errors import UsageError

Schedule = Callable[[int], float]

SCHEDULES = ("constant", "step", "cosine", "one-cycle", "cosine-restarts", "plateau")
CYCLE_SHAPES = ("cosine", "linear")

ONE_CYCLE_WARMUP = 0.3
"""The share of a one-cycle's steps that rise to the peak, unless told otherwise."""


def make_schedule(
    name: str,
    lr: float,
    total_steps: int,
    *,
    warmup_steps: float | None = None,
    milestones: Sequence[float] = (0.5, 0.75),
    gamma: float = 0.1,
    final_lr_ratio: float = 0.0,
    start_div: float = 25.0,
    final_div: float = 1e4,
    cycle_shape: str = "cosine",
    cycles: int = 3,
    cycle_growth: float = 2.0,
) -> Schedule:
    """The schedule `name` as a function step -> rate; `lr` is its highest rate, per step.

    `warmup_steps` None means no warm-up, and 30% of the steps for one-cycle, whose rise it is.
    step: `milestones` are shares of `total_steps`, at each the rate is multiplied by `gamma`.
    cosine: falls to `lr * final_lr_ratio`. cosine-restarts: does so `cycles` times, each fall
    `cycle_growth` times as long as the one before. one-cycle: rises from `lr / start_div` and falls
    to `lr / start_div / final_div`, in the form `cycle_shape`. plateau: constant; the drops are
    `Plateau`'s. Raises `UsageError` for a name or number that cannot be used.
    """
    if name not in SCHEDULES:
        raise UsageError(f"--schedule {name}: unknown; use one of: {', '.join(SCHEDULES)}")
    if not (math.isfinite(lr) and lr >= 0):
        raise UsageError(f"--lr {lr}: must be a number, 0 or more")
    if total_steps < 1:
        raise UsageError(f"a schedule needs at least one step, not {total_steps}")
    if warmup_steps is None:
        warmup_steps = ONE_CYCLE_WARMUP * total_steps if name == "one-cycle" else 0
    if not 0 <= warmup_steps <= total_steps:
        raise UsageError(
            f"a warm-up of {warmup_steps:g} steps does not fit into {total_steps} steps"
        )
    if name == "one-cycle":
        shape = one_cycle_linear if cycle_shape == "linear" else one_cycle
        schedule = shape(lr, total_steps, warmup_steps, start_div, final_div)
    elif name == "step":
        schedule = with_warmup(step_decay(lr, total_steps, milestones, gamma), lr, warmup_steps)
    elif name == "cosine":
        schedule = with_warmup(
            cosine(lr, total_steps, warmup_steps, final_lr_ratio), lr, warmup_steps
        )
    elif name == "cosine-restarts":
        length = max(total_steps - warmup_steps, 1)
        falls = cosine_restarts(lr, length, cycles, cycle_growth, final_lr_ratio)
        schedule = with_warmup(lambda step: falls(max(step - warmup_steps, 0)), lr, warmup_steps)
    else:
        schedule = with_warmup(constant(lr), lr, warmup_steps)
    return lambda step: schedule(min(step, total_steps - 1))


def with_warmup(schedule: Schedule, lr: float, warmup_steps: float) -> Schedule:
    """`schedule`, its first `warmup_steps` replaced by the rise lr * (step + 1) / warmup_steps."""
    return lambda step: (
        lr * (step + 1) / warmup_steps if step < warmup_steps - 1 else schedule(step)
    )


def constant(lr: float) -> Schedule:
    """The rate `lr` at every step."""
    return lambda step: lr


def step_decay(
    lr: float, total_steps: int, milestones: Sequence[float], gamma: float
) -> Schedule:
    """lr * gamma^k, where k counts the milestones (shares of total_steps) that are reached.

    Source: He et al. 2016, section 4.2, divides by 10 at half and three quarters of the steps.
    """
    if list(milestones) != sorted(milestones) or not all(0 < share <= 1 for share in milestones):
        raise UsageError(
            f"milestones {', '.join(map(str, milestones))}: must rise and lie between 0 and 1"
        )
    boundaries = [math.ceil(share * total_steps - 1e-9) for share in milestones]
    return lambda step: lr * gamma ** bisect_right(boundaries, step)


def cosine(
    lr: float, total_steps: int, warmup_steps: float = 0, final_lr_ratio: float = 0.0
) -> Schedule:
    """Half a cosine from `lr` at the end of the warm-up to lr * final_lr_ratio at `total_steps`.

    Source: Loshchilov and Hutter 2017, "SGDR", equation 5, without restarts.
    """
    length = max(total_steps - warmup_steps, 1)

    def rate(step: int) -> float:
        share = (step - warmup_steps) / length
        return _between(lr, lr * final_lr_ratio, max(share, 0.0))

    return rate


def one_cycle(
    lr: float, total_steps: int, warmup_steps: float, start_div: float, final_div: float
) -> Schedule:
    """Half a cosine up from lr / start_div to lr, then one down to lr / start_div / final_div.

    The peak is step `warmup_steps - 1` and the end step `total_steps - 1`, as in
    torch.optim.lr_scheduler.OneCycleLR with `pct_start = warmup_steps / total_steps`.
    Source: Smith and Topin 2018, "Super-convergence".
    """
    first, last = lr / start_div, lr / start_div / final_div
    peak, end = max(warmup_steps - 1, 0), total_steps - 1

    def rate(step: int) -> float:
        step = min(step, end)
        if step < peak:
            return _between(first, lr, step / peak)
        return _between(lr, last, (step - peak) / ((end - peak) or 1))

    return rate


def one_cycle_linear(
    lr: float, total_steps: int, warmup_steps: float, start_div: float, final_div: float
) -> Schedule:
    """Straight up from lr / start_div to lr, down again in the same time, then to the end.

    The end is lr / start_div / final_div. As in torch.optim.lr_scheduler.OneCycleLR with
    `three_phase` and linear annealing.
    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters", section 4.1.
    """
    first, last = lr / start_div, lr / start_div / final_div
    points = _cycle_points(total_steps, warmup_steps)
    return lambda step: _along(points, (first, lr, first, last), step)


def cycle_momentum(
    total_steps: int,
    warmup_steps: float | None = None,
    cycle_shape: str = "cosine",
    high: float = 0.95,
    low: float = 0.85,
) -> Schedule:
    """The momentum of each step of a one-cycle: `high`, `low` where the rate peaks, `high` again.

    With the linear shape it stays high in the last phase. Source: Smith 2018, section 4.2, and
    torch.optim.lr_scheduler.OneCycleLR.
    """
    if warmup_steps is None:
        warmup_steps = ONE_CYCLE_WARMUP * total_steps
    end = total_steps - 1
    if cycle_shape == "linear":
        points = _cycle_points(total_steps, warmup_steps)
        return lambda step: _along(points, (high, low, high, high), min(step, end))
    peak = max(warmup_steps - 1, 0)

    def momentum(step: int) -> float:
        step = min(step, end)
        if step < peak:
            return _between(high, low, step / peak)
        return _between(low, high, (step - peak) / ((end - peak) or 1))

    return momentum


def _cycle_points(total_steps: int, warmup_steps: float) -> tuple[float, ...]:
    """Where a three-phase cycle starts, peaks, is down again, and ends."""
    end = total_steps - 1
    peak = min(max(warmup_steps - 1, 0), end)
    return (0, peak, min(max(2 * warmup_steps - 2, 0), end), end)


def _along(points: Sequence[float], values: Sequence[float], step: float) -> float:
    """The broken line through (points, values), at `step`; a phase of no length is a jump."""
    index = min(max(bisect_right(points, step) - 1, 0), len(points) - 2)
    length = points[index + 1] - points[index]
    share = (step - points[index]) / length if length else 1.0
    return values[index] + (values[index + 1] - values[index]) * min(share, 1.0)


def cosine_restarts(
    lr: float, total_steps: float, cycles: int, growth: float, final_lr_ratio: float = 0.0
) -> Schedule:
    """`cycles` half cosines from `lr` to lr * final_lr_ratio, each `growth` times as long.

    The lengths are such that the last one ends with the training; a training with fewer steps than
    cycles has as many cycles as steps.
    Source: Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts".
    """
    if cycles < 1 or growth < 1:
        raise UsageError(f"{cycles} cycles that grow by {growth:g}: both must be at least 1")
    cycles = min(cycles, max(int(total_steps), 1))
    lengths = [growth**k for k in range(cycles)]
    starts = [total_steps * sum(lengths[:k]) / sum(lengths) for k in range(cycles + 1)]

    def rate(step: float) -> float:
        k = min(bisect_right(starts, step + 1e-9) - 1, cycles - 1)
        share = (step - starts[k]) / (starts[k + 1] - starts[k])
        return _between(lr, lr * final_lr_ratio, min(max(share, 0.0), 1.0))

    return rate


@dataclass(frozen=True)
class Plateau:
    """Multiplies the rate by `factor` after more than `patience` epochs without a lower loss.

    A loss counts as lower if it is below the best by a share of `threshold`. The rule is this
    object, what it remembers is a `PlateauState`. As torch.optim.lr_scheduler.ReduceLROnPlateau
    in mode "min".
    """

    factor: float = 0.1
    patience: int = 5
    threshold: float = 1e-4

    def after(self, state: PlateauState, loss: float) -> PlateauState:
        """The state after an epoch whose validation gave `loss`."""
        if state.best is None or loss < state.best * (1 - self.threshold):
            return PlateauState(state.rate, loss, 0)
        if state.waited < self.patience:
            return PlateauState(state.rate, state.best, state.waited + 1)
        return PlateauState(state.rate * self.factor, state.best, 0)


class PlateauState(NamedTuple):
    """`rate`: the factor on the learning rate; the `best` loss; epochs `waited` since then."""

    rate: float = 1.0
    best: float | None = None
    waited: int = 0


def _between(start: float, stop: float, share: float) -> float:
    """From `start` (share 0) to `stop` (share 1) along half a cosine."""
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2
