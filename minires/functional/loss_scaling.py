r"""Dynamic loss scaling: what keeps small gradients from vanishing in float16.

Float16 has no number between 0 and 6e-8, and below 6e-5 it loses digits. So the gradient of the
loss is multiplied by a large scale $s$, every gradient behind it is then $s$ times too large, and
the gradients of the weights, which are float32, are divided by $s$ again. Where $s$ was too large,
something became infinite: that step is skipped and $s$ halved. After 2000 steps without an accident
$s$ is doubled. The powers of two are exact, so the scale itself rounds nothing.

All of it stays on the device: the scale, the counter, and `found`, 0 or 1.

Source: Micikevicius et al. 2018, "Mixed precision training", section 3.2; the rules and the numbers
are those of torch.amp.GradScaler.
"""

from __future__ import annotations

import numpy as np

from minires.backend import Array, array_module, operation

INITIAL_SCALE = 2.0**16
GROWTH, BACKOFF, INTERVAL = 2.0, 0.5, 2000


@operation
def unscale_in_place(values: Array, scale: Array, found: Array) -> None:
    """values <- values / scale; found <- 1 if one of them is infinite or NaN, else as it was.

    values: (P,); scale and found: 0-d, float32, on the same device.
    """
    xp = array_module(values)
    found[...] = xp.maximum(found, (~xp.isfinite(values)).any())
    values *= (1.0 / scale.astype(np.float64)).astype(values.dtype)


@operation
def update_scale(
    scale: Array,
    good_steps: Array,
    found: Array,
    growth: float = GROWTH,
    backoff: float = BACKOFF,
    interval: int = INTERVAL,
) -> None:
    """Move the scale after a step, and set `found` back to 0. All in place.

    found:     scale <- scale * backoff, good_steps <- 0
    not found: good_steps <- good_steps + 1; when that is `interval`: good_steps <- 0, and
    scale <- scale * growth unless that is infinite

    scale, found: 0-d float32; good_steps: 0-d int32, the steps since the scale last moved.
    """
    xp = array_module(scale)
    bad = found > 0
    grows = good_steps + 1 == interval
    with np.errstate(over="ignore"):
        larger = scale * scale.dtype.type(growth)
    larger = xp.where(xp.isfinite(larger), larger, scale)
    scale[...] = xp.where(
        bad, scale * scale.dtype.type(backoff), xp.where(grows, larger, scale)
    )
    good_steps[...] = xp.where(bad | grows, 0, good_steps + 1)
    found[...] = 0
