"""How large the numbers are that flow forward and backward through a network, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minires.backend import Array, to_host
from minires.models.network import Network
from minires.nn import Conv2d, CrossEntropyLoss, Linear, Module, observe, observe_gradients

SHARES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Signal:
    """One convolution or linear layer in one training step.

    `entering` are the quantiles `SHARES` of the values that enter it, and `zeros` the share of
    zeros among them; `gradient` is the root mean square (RMS) of the gradient of its output, and
    `update` the norm of its weight's gradient by the norm of the weight.
    """

    name: str
    entering: tuple[float, ...]
    zeros: float
    gradient: float
    update: float


def signals(model: Network, x: Array, labels: Array) -> list[Signal]:
    """What one training step with images x (N, 3, H, W) and labels (N,) sends through the layers.

    The layers come in the order in which they run. The running statistics are as before afterwards,
    and no parameter has changed.
    """
    entering: dict[str, np.ndarray] = {}
    gradients: dict[str, float] = {}

    def forward(name: str, module: Module, x: Array, y: Array) -> None:
        if isinstance(module, Conv2d | Linear):
            entering[name] = to_host(x).astype(np.float64).ravel()

    def backward(name: str, module: Module, grad_output: Array) -> None:
        if isinstance(module, Conv2d | Linear):
            gradients[name] = _rms(to_host(grad_output))

    buffers = [(buffer, buffer.data.copy()) for _, buffer in model.named_buffers()]
    loss = CrossEntropyLoss()
    model.train().zero_grad()
    with observe(model, forward), observe_gradients(model, backward):
        loss.forward(model(x), labels)
        model.backward(loss.backward())
    for buffer, before in buffers:
        buffer.data[...] = before
    weights = {n.removesuffix(".weight"): p for n, p in model.named_parameters()}
    return [
        Signal(
            name,
            tuple(np.quantile(values, SHARES).tolist()),
            float((values == 0).mean()),
            gradients[name],
            _rms(to_host(weights[name].grad)) / max(_rms(to_host(weights[name].data)), 1e-30),
        )
        for name, values in entering.items()
    ]


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))
