"""The loss scale of a training in float16: `functional.loss_scaling` around an optimizer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from minires.backend import Array, Device, to_device, to_host
from minires.functional.loss_scaling import INITIAL_SCALE, unscale_in_place, update_scale
from minires.functional.optimizer import scale_in_place
from minires.optim.base import Optimizer, check_state

PREFIX = "loss_scale."
"""What `state_dict` puts before the names of its values."""


class LossScaler:
    """`scale` and `found`, 0-d float32, and `good_steps`, 0-d int32, in the memory of `device`.

    Each step: `scale_gradient` where the backward pass begins, `unscale` where it has ended,
    `optimizer.step(..., skip=scaler.found)`, `update`.
    """

    def __init__(self, device: Device, scale: float = INITIAL_SCALE) -> None:
        self.device = device
        self.scale = to_device(np.array(scale, np.float32), device)
        self.found = to_device(np.zeros((), np.float32), device)
        self.good_steps = to_device(np.zeros((), np.int32), device)

    def scale_gradient(self, grad: Array) -> None:
        """grad <- scale * grad, in place: the gradient of the logits (N, K), float32."""
        scale_in_place(grad.reshape(-1), self.scale)

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide every gradient by the scale; `found` tells whether one is infinite or NaN."""
        for group in optimizer.groups:
            unscale_in_place(group.gradients(), self.scale, self.found)

    def update(self) -> None:
        """Move the scale, after the optimizer's step."""
        update_scale(self.scale, self.good_steps, self.found)

    def state_dict(self) -> dict[str, np.ndarray]:
        """`loss_scale.scale` and `loss_scale.good_steps`: host copies."""
        return {name: np.array(to_host(array)) for name, array in self._arrays().items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take a state over; raises `CheckpointError`, and changes nothing, on a misfit."""
        arrays = self._arrays()
        check_state(dict.fromkeys(arrays, ()), state)
        for name, array in arrays.items():
            array[...] = array.dtype.type(state[name])

    def _arrays(self) -> dict[str, Array]:
        return {PREFIX + "scale": self.scale, PREFIX + "good_steps": self.good_steps}
