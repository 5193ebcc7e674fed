"""Learning rates as pure functions of the step: nothing is kept, so a resumed run needs no state.

Warm-up of W steps rises in a straight line, lr * (step + 1) / W, and reaches the full rate in its
last step. The step counts from 0; `total_steps` is the number of steps of the whole training.
Steps after the last one keep the last one's rate.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from minires.errors import UsageError

Schedule = Callable[[int], float]

SCHEDULES = ("constant", "step", "cosine", "one-cycle")

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
) -> Schedule:
    """The schedule `name` as a function step -> rate; `lr` is its highest rate, per step.

    `warmup_steps` None means no warm-up, and 30% of the steps for one-cycle, whose rise it is.
    step: `milestones` are shares of `total_steps`, at each the rate is multiplied by `gamma`.
    cosine: falls to `lr * final_lr_ratio`. one-cycle: rises from `lr / start_div` and falls to
    `lr / start_div / final_div`. Raises `UsageError` for a name or number that cannot be used.
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
        schedule = one_cycle(lr, total_steps, warmup_steps, start_div, final_div)
    elif name == "step":
        schedule = with_warmup(step_decay(lr, total_steps, milestones, gamma), lr, warmup_steps)
    elif name == "cosine":
        schedule = with_warmup(
            cosine(lr, total_steps, warmup_steps, final_lr_ratio), lr, warmup_steps
        )
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


def _between(start: float, stop: float, share: float) -> float:
    """From `start` (share 0) to `stop` (share 1) along half a cosine."""
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2
