"""Optimizers that scale each weight's step by the size of its gradients: Adam, AdamW, RMSprop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from minires.functional.optimizer import adam_step, rmsprop_step
from minires.optim.base import Optimizer

if TYPE_CHECKING:
    from minires.nn import Parameter


class Adam(Optimizer):
    """Adam: `functional.optimizer.adam_step` per group; weight decay is added to the gradient."""

    slots = ("mean", "square")
    counts_steps = True
    decoupled = False

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decay_all: bool = False,
        lr_factor: Callable[[str], float] | None = None,
    ) -> None:
        self.betas = (float(betas[0]), float(betas[1]))
        self.eps = float(eps)
        super().__init__(named_parameters, weight_decay, decay_all, lr_factor)

    def update_group(self, weights, grads, slots, lr, weight_decay, momentum, skip) -> None:
        """`adam_step`; `momentum` replaces beta1."""
        beta1 = self.betas[0] if momentum is None else momentum
        adam_step(
            weights,
            grads,
            slots["mean"],
            slots["square"],
            lr,
            self.steps,
            beta1,
            self.betas[1],
            self.eps,
            weight_decay,
            self.decoupled,
            **({} if skip is None else {"skip": skip}),
        )


class AdamW(Adam):
    """Adam with decoupled weight decay: the weights shrink by themselves, by lr * weight_decay."""

    decoupled = True


class RMSprop(Optimizer):
    """RMSprop: `functional.optimizer.rmsprop_step` per group, without momentum unless asked for."""

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        decay_all: bool = False,
        lr_factor: Callable[[str], float] | None = None,
    ) -> None:
        self.alpha = float(alpha)
        self.eps = float(eps)
        self.momentum = float(momentum)
        self.slots = (
            "square",
            *(["mean"] if centered else []),
            *(["momentum"] if momentum else []),
        )
        super().__init__(named_parameters, weight_decay, decay_all, lr_factor)

    def update_group(self, weights, grads, slots, lr, weight_decay, momentum, skip) -> None:
        """`rmsprop_step`; `momentum` replaces the optimizer's own, where it has any."""
        rmsprop_step(
            weights,
            grads,
            slots["square"],
            slots.get("mean"),
            slots.get("momentum"),
            lr,
            self.alpha,
            self.eps,
            weight_decay,
            self.momentum if momentum is None else momentum,
            **({} if skip is None else {"skip": skip}),
        )
