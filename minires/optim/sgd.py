"""Stochastic gradient descent with momentum, over flat buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from minires.functional.optimizer import sgd_step
from minires.optim.base import Optimizer

if TYPE_CHECKING:
    from minires.nn import Parameter


class SGD(Optimizer):
    """SGD with momentum, Nesterov and weight decay: `functional.optimizer.sgd_step` per group."""

    slots = ("momentum",)

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 5e-4,
        decay_all: bool = False,
        lr_factor: Callable[[str], float] | None = None,
    ) -> None:
        self.momentum = float(momentum)
        self.nesterov = bool(nesterov)
        super().__init__(named_parameters, weight_decay, decay_all, lr_factor)

    def update_group(self, weights, grads, slots, lr, weight_decay, momentum, skip) -> None:
        """`sgd_step`; `momentum` replaces the optimizer's own."""
        if momentum is None:
            momentum = self.momentum
        velocity = slots["momentum"]
        more = {} if skip is None else {"skip": skip}
        sgd_step(weights, grads, velocity, lr, momentum, weight_decay, self.nesterov, **more)
