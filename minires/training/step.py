"""One training step on a batch: forward, loss, backward, update. The mathematics of the loop.

Nothing in here waits for the device or reads a value back, so that a GPU can run the whole step as
one graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from minires.backend import Array, fixed_weights
from minires.functional.loss import count_batch
from minires.nn import CrossEntropyLoss, Module, convolution_weights
from minires.optim import LossScaler, Optimizer, WeightAverage, clip_by_norm, clip_by_value


@dataclass
class TrainingStep:
    """What a step works with.

    `scaler` scales the loss of a training in float16; `average` follows the weights; `clip_norm`
    and `clip_value` of 0 clip nothing. `gradient_norm` is that of the last step before clipping by
    norm, a 0-d array. `check` may look at the loss before the weights change.
    """

    model: Module
    loss: CrossEntropyLoss
    optimizer: Optimizer
    scaler: LossScaler | None = None
    average: WeightAverage | None = None
    clip_norm: float = 0.0
    clip_value: float = 0.0
    gradient_norm: Array | None = None
    check: Callable[[Array], None] | None = None
    weights: list[Array] = field(init=False, repr=False)
    _copies: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Note the weights that keep their values between two updates."""
        self.weights = convolution_weights(self.model)
        if self.scaler is not None:
            self.optimizer.count_on_device(self.scaler.device)

    def forward_backward(self, x: Array, labels: Array) -> tuple[Array, Array]:
        """The loss, 0-d, and the logits (B, K) of x (B, 3, H, W) and labels (B,) or (B, K).

        Afterwards every gradient is there, that of the loss as it is, not scaled.
        """
        self.model.zero_grad()
        with fixed_weights(self.weights) as self._copies:  # a graph of this step needs them
            logits = self.model(x)
            loss = self.loss.forward(logits, labels)
            grad = self.loss.backward()
            if self.scaler is not None:
                self.scaler.scale_gradient(grad)
            self.model.backward(grad)
        if self.scaler is not None:
            self.scaler.unscale(self.optimizer)
        return loss, logits

    def run(
        self, x: Array, labels: Array, lr: Any, momentum: Any, decay: Any, totals: Array
    ) -> None:
        """The whole step; its loss and its hits are added to `totals`, see `count_batch`."""
        loss, logits = self.forward_backward(x, labels)
        if self.check is not None:
            self.check(loss)
        self.update(lr, momentum, decay)
        count_batch(logits, labels, loss, totals)

    def update(self, lr: Any, momentum: Any = None, decay: Any = None) -> None:
        """Clip, and change the weights with the rate `lr`.

        `momentum` replaces the optimizer's own; `decay` is that of the average in this step.
        """
        if self.clip_value:
            clip_by_value(self.optimizer, self.clip_value)
        if self.clip_norm:
            self.gradient_norm = clip_by_norm(self.optimizer, self.clip_norm)
        if self.scaler is None:
            self.optimizer.step(lr, momentum)
        else:
            self.optimizer.step(lr, momentum, skip=self.scaler.found)
            self.scaler.update()
        if self.average is not None:
            self.average.follow(decay)
