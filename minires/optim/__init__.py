"""Optimizers over flat buffers, and learning-rate schedules as pure functions of the step."""

from minires.optim.flat import FlatGroup
from minires.optim.schedules import SCHEDULES, make_schedule
from minires.optim.sgd import SGD

__all__ = ["SCHEDULES", "SGD", "FlatGroup", "make_schedule"]
