"""What the schedules of a config make of the learning rate, without any training."""

from __future__ import annotations

from dataclasses import replace

from minires.analysis.pictures.schedule import Course
from minires.training.config import SCHEDULES, TrainConfig
from minires.training.setup import momentum_of, schedule_of

STEPS = 200
"""Steps of an epoch, where no run says how many there are."""


def course_of(config: TrainConfig, steps_per_epoch: float = STEPS) -> Course:
    """The rate, and a momentum that moves, of each step of a training with `config`."""
    total = max(round(config.epochs * steps_per_epoch), 1)
    steps = range(0, total + 1, max(total // 4_000, 1))
    schedule, momentum = schedule_of(config, total), momentum_of(config, total)
    return Course(
        config.schedule,
        [step / steps_per_epoch for step in steps],
        [schedule(step) for step in steps],
        [] if momentum is None else [momentum(step) for step in steps],
    )


def all_courses(config: TrainConfig, steps_per_epoch: float = STEPS) -> list[Course]:
    """The courses of all schedules but plateau, which nobody knows before the training."""
    names = (name for name in SCHEDULES if name != "plateau")
    still = replace(config, cycle_momentum=False)
    return [course_of(replace(still, schedule=name), steps_per_epoch) for name in names]
