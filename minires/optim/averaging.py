"""An exponential moving average of the weights, which often measures better than the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.backend import Array, array_module, to_host
from minires.functional.optimizer import average_step
from minires.optim.base import Optimizer, check_state

if TYPE_CHECKING:
    from minires.nn import Module

PREFIX = "average."
"""What `state_dict` puts before the name of a parameter or buffer."""


class WeightAverage:
    """average <- average + (1 - d) * (weights - average) after each update of `optimizer`.

    d = min(decay, (1 + steps) / (10 + steps)): the average forgets the initial weights quickly.
    The running statistics of batch norm are averaged like weights, so that they fit them. What the
    optimizer does not train keeps its value. `steps` is the number of updates, from 1.

    Source: Izmailov et al. 2018, "Averaging weights leads to wider optima"; the short start is that
    of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: Module, optimizer: Optimizer, decay: float) -> None:
        self.decay = float(decay)
        self.groups = optimizer.groups
        self.buffers = {
            name: buffer
            for name, buffer in model.named_buffers()
            if buffer.data.ndim and buffer.data.dtype.kind == "f"
        }
        self.weights = [group.weights.copy() for group in self.groups]
        self.statistics = {name: buffer.data.copy() for name, buffer in self.buffers.items()}

    def update(self, steps: int) -> None:
        """Take in the weights after update number `steps`."""
        self.follow(self.decay_after(steps))

    def decay_after(self, steps: int) -> float:
        """d after update number `steps`."""
        return min(self.decay, (1 + steps) / (10 + steps))

    def follow(self, decay: Any) -> None:
        """Take in the weights with this d, a number or a 0-d float32 array on the device."""
        for group, average in zip(self.groups, self.weights, strict=True):
            average_step(average, group.weights, decay)
        for name, buffer in self.buffers.items():
            average_step(self.statistics[name], buffer.data, decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model while the context lasts, and the weights back after."""
        weights = [group.weights.copy() for group in self.groups]
        statistics = {name: buffer.data.copy() for name, buffer in self.buffers.items()}
        self._fill(self.weights, self.statistics)
        try:
            yield
        finally:
            self._fill(weights, statistics)

    def _fill(self, weights: list[Array], statistics: Mapping[str, Array]) -> None:
        for group, values in zip(self.groups, weights, strict=True):
            group.weights[...] = values
        for name, buffer in self.buffers.items():
            buffer.data[...] = statistics[name]

    def state_dict(self) -> dict[str, np.ndarray]:
        """The average, `average.<name>`: host copies in the shapes of parameters and buffers."""
        return {name: np.array(to_host(view), order="C") for name, view in self._views().items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take an average over; raises `CheckpointError`, and changes nothing, on a misfit."""
        views = self._views()
        check_state({name: tuple(view.shape) for name, view in views.items()}, state)
        for name, view in views.items():
            view[...] = array_module(view).asarray(state[name], dtype=view.dtype)

    def _views(self) -> dict[str, Array]:
        views = {
            PREFIX + name: group.view(average, index)
            for group, average in zip(self.groups, self.weights, strict=True)
            for index, name in enumerate(group.names)
        }
        return views | {PREFIX + name: values for name, values in self.statistics.items()}


def averaged_state(
    model: Mapping[str, np.ndarray], optimizer: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The state dict `model` with the averages that an optimizer's saved state holds, if any."""
    averages = {
        name.removeprefix(PREFIX): array
        for name, array in optimizer.items()
        if name.startswith(PREFIX)
    }
    return {**model, **averages}
