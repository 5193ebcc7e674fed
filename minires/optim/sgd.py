"""Stochastic gradient descent with momentum, over flat buffers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from minires.backend import array_module, to_host
from minires.errors import CheckpointError
from minires.functional.optimizer import sgd_step
from minires.optim.flat import FlatGroup

if TYPE_CHECKING:
    from minires.nn import Parameter

SLOT = "momentum."
"""What `state_dict` puts before a parameter's name."""


class SGD:
    """SGD with momentum, Nesterov and weight decay: `functional.optimizer.sgd_step` per group.

    Weight decay acts on the parameters whose `decay` is true (not on batch norm and biases), or on
    every one with `decay_all`. Making the optimizer moves the parameters into its flat buffers, so
    put the model on its device first. `lr` is given to each `step`: schedules are functions of the
    step and nothing is kept here.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 5e-4,
        decay_all: bool = False,
    ) -> None:
        self.momentum = float(momentum)
        self.nesterov = bool(nesterov)
        decayed: list[tuple[str, Parameter]] = []
        others: list[tuple[str, Parameter]] = []
        for name, parameter in named_parameters:
            (decayed if decay_all or parameter.decay else others).append((name, parameter))
        pairs = [(decayed, float(weight_decay)), (others, 0.0)]
        self.groups = [FlatGroup(members) for members, _ in pairs if members]
        self.weight_decays = [decay for members, decay in pairs if members]
        self.velocities = [group.slot() for group in self.groups]

    def zero_grad(self) -> None:
        """Start a new accumulation of every gradient."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.zero_grad()

    def step(self, lr: float) -> None:
        """Update every parameter once from its gradient; `lr` is the rate of this step."""
        if isinstance(lr, float):  # a NumPy float64 is one too, and would promote float32 arrays
            lr = float(lr)
        for group, decay, velocity in zip(
            self.groups, self.weight_decays, self.velocities, strict=True
        ):
            grads = group.gradients()
            sgd_step(group.weights, grads, velocity, lr, self.momentum, decay, self.nesterov)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The velocities, `momentum.<parameter>`: host copies in the parameters' shapes."""
        return {
            name: np.array(to_host(view), order="C") for name, view in self._slots().items()
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take the velocities over; raises `CheckpointError`, and changes nothing, on a misfit."""
        slots = self._slots()
        problems = [f"missing {name}" for name in slots if name not in state]
        problems += [f"unexpected {name}" for name in state if name not in slots]
        problems += [
            f"{name} has shape {tuple(state[name].shape)}, expected {tuple(view.shape)}"
            for name, view in slots.items()
            if name in state and tuple(state[name].shape) != tuple(view.shape)
        ]
        if problems:
            more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
            raise CheckpointError(
                f"the optimizer state does not fit this model: {'; '.join(problems[:4])}{more}"
            )
        for name, view in slots.items():
            view[...] = array_module(view).asarray(state[name], dtype=view.dtype)

    def _slots(self) -> dict:
        """Every velocity as a view in its parameter's logical shape, by its name in a file."""
        return {
            SLOT + name: group.view(velocity, index)
            for group, velocity in zip(self.groups, self.velocities, strict=True)
            for index, name in enumerate(group.names)
        }
