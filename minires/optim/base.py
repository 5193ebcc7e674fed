"""What all optimizers share: parameters in flat groups, slots beside them, and a state dict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from minires.backend import Array, Device, array_module, to_device, to_host
from minires.errors import CheckpointError
from minires.functional.optimizer import count_in_place
from minires.optim.flat import FlatGroup

if TYPE_CHECKING:
    from minires.nn import Parameter

STEPS = "steps"
"""The name under which `state_dict` keeps the number of updates, where the formula needs it."""


class Optimizer:
    """Parameters gathered into flat groups, one for each weight decay and rate factor.

    Weight decay acts on the parameters whose `decay` is true (not on batch norm and biases), or on
    every one with `decay_all`. `lr_factor(name)` multiplies the rate of a parameter (default: 1
    for all). Making the optimizer moves the parameters into its flat buffers, so put the model on
    its device first. `lr` is given to each `step`: schedules are functions of the step.

    A subclass names its `slots` (arrays kept for each parameter) before it calls `__init__` here,
    and has `update_group`.
    """

    slots: tuple[str, ...] = ()
    counts_steps = False

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        weight_decay: float = 0.0,
        decay_all: bool = False,
        lr_factor: Callable[[str], float] | None = None,
    ) -> None:
        members: dict[tuple[bool, float], list[tuple[str, Parameter]]] = {}
        for name, parameter in named_parameters:
            factor = 1.0 if lr_factor is None else float(lr_factor(name))
            decays = decay_all or parameter.decay
            members.setdefault((decays, factor), []).append((name, parameter))
        # decayed parameters first, and among them the full rate first: a stable order for the state
        kinds = sorted(members, key=lambda kind: (not kind[0], -kind[1]))
        self.groups = [FlatGroup(members[kind]) for kind in kinds]
        self.weight_decays = [float(weight_decay) if decays else 0.0 for decays, _ in kinds]
        self.lr_factors = [factor for _, factor in kinds]
        self.group_slots = [{name: group.slot() for name in self.slots} for group in self.groups]
        self.steps = 0

    def zero_grad(self) -> None:
        """Start a new accumulation of every gradient."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.zero_grad()

    def step(
        self, lr: float, momentum: float | None = None, skip: Array | None = None
    ) -> None:
        """Update every parameter once from its gradient.

        `lr` is the rate of this step, or float32 (G,) on the device, the rate of each group;
        `momentum`, where given, replaces the optimizer's own in this step (Adam's is beta1).
        `skip`: a 0-d array; if it is not 0, nothing changes.
        """
        if isinstance(lr, float):  # a NumPy float64 is one too, and would promote float32 arrays
            lr = float(lr)
        self._count(skip)
        for index, group in enumerate(self.groups):
            factor = self.lr_factors[index]
            if getattr(lr, "ndim", 0) == 1:
                rate = lr[index : index + 1].reshape(())
            else:
                rate = lr if factor == 1 else lr * factor
            slots, decay = self.group_slots[index], self.weight_decays[index]
            self.update_group(group.weights, group.gradients(), slots, rate, decay, momentum, skip)

    def count_on_device(self, device: Device) -> None:
        """Keep `steps` in the memory of `device`, where a graph, or a skipped step, counts it."""
        if self.counts_steps and isinstance(self.steps, int):
            self.steps = to_device(np.array(self.steps, np.int64), device)
            self._never = to_device(np.zeros((), np.float32), device)

    def _count(self, skip: Array | None) -> None:
        """Count this update in `steps`, unless it is left out."""
        if not isinstance(self.steps, int):
            count_in_place(self.steps, self._never if skip is None else skip)
        elif self.counts_steps or skip is None:
            self.steps += 1 if skip is None else int(skip == 0)

    def update_group(
        self,
        weights: Array,
        grads: Array,
        slots: Mapping[str, Array],
        lr: float,
        weight_decay: float,
        momentum: float | None,
        skip: Array | None,
    ) -> None:
        """Update one group in place unless `skip`; weights, grads and each of `slots`: (P,)."""
        raise NotImplementedError

    # --- state ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """The slots, `<slot>.<parameter>`: host copies in the parameters' shapes; and `steps`."""
        state = {name: np.array(to_host(view), order="C") for name, view in self._views().items()}
        if self.counts_steps:
            state[STEPS] = np.array(int(self.steps), np.int64)
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take the slots over; raises `CheckpointError`, and changes nothing, on a misfit."""
        views = self._views()
        shapes = {name: tuple(view.shape) for name, view in views.items()}
        if self.counts_steps:
            shapes[STEPS] = ()
        check_state(shapes, state)
        for name, view in views.items():
            view[...] = array_module(view).asarray(state[name], dtype=view.dtype)
        if self.counts_steps:
            if isinstance(self.steps, int):
                self.steps = int(state[STEPS])
            else:
                self.steps[...] = int(state[STEPS])

    def _views(self) -> dict[str, Array]:
        """Every slot as a view in its parameter's logical shape, by its name in a file."""
        return {
            f"{slot}.{name}": group.view(slots[slot], index)
            for slot in self.slots
            for group, slots in zip(self.groups, self.group_slots, strict=True)
            for index, name in enumerate(group.names)
        }


def check_state(shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, np.ndarray]) -> None:
    """Raise `CheckpointError` with the first misfits unless `state` has exactly `shapes`."""
    problems = [f"missing {name}" for name in shapes if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in shapes]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {shape}"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise CheckpointError(
            f"the optimizer state does not fit this model: {'; '.join(problems[:4])}{more}"
        )
