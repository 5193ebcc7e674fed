"""The update of stochastic gradient descent with momentum, in place on flat arrays.

Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning",
section 2, in the form of torch.optim.SGD: the rate multiplies the velocity, not the gradient.
"""

from __future__ import annotations

import numpy as np

from minires.backend import Array, array_module, operation

CHUNK = 128 * 1024
"""Elements per piece on the CPU, so that the scratch is still in cache for the next line.

Measured for 11.2 million float32 values, Nesterov, one Zen 4 core: 11 ms; in one piece, 26 ms.
"""


@operation
def sgd_step(
    weights: Array,
    grads: Array,
    velocity: Array,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> None:
    """Update `weights` and `velocity` in place; `grads` is only read.

    g = grads + weight_decay * weights
    velocity <- momentum * velocity + g
    weights  <- weights - lr * velocity, or with Nesterov: weights - lr * (g + momentum * velocity)

    weights, grads, velocity: (P,), one dtype; velocity is zero before the first step. `lr` is per
    step: a Python float, or a 0-d array of the same dtype.
    """
    xp = array_module(weights)
    chunk = CHUNK if xp is np else max(weights.size, 1)
    scratch = xp.empty((2, min(chunk, weights.size)), dtype=weights.dtype)
    for start in range(0, weights.size, chunk):
        w, v = weights[start : start + chunk], velocity[start : start + chunk]
        g, look_ahead = scratch[0, : w.size], scratch[1, : w.size]
        xp.multiply(w, weight_decay, out=g)
        g += grads[start : start + chunk]
        v *= momentum
        v += g
        if nesterov:
            xp.multiply(v, momentum, out=look_ahead)
            g += look_ahead
            g *= lr
        else:
            xp.multiply(v, lr, out=g)
        w -= g
