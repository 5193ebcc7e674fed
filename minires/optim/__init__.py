"""Optimizers over flat buffers, and learning-rate schedules as pure functions of the step."""

from minires.optim.adaptive import Adam, AdamW, RMSprop
from minires.optim.averaging import WeightAverage
from minires.optim.base import Optimizer
from minires.optim.clip import clip_by_norm, clip_by_value, gradient_norm
from minires.optim.flat import FlatGroup
from minires.optim.scaling import LossScaler
from minires.optim.schedules import SCHEDULES, make_schedule
from minires.optim.sgd import SGD

OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "Adam",
    "AdamW",
    "FlatGroup",
    "LossScaler",
    "Optimizer",
    "RMSprop",
    "WeightAverage",
    "clip_by_norm",
    "clip_by_value",
    "gradient_norm",
    "make_schedule",
]
