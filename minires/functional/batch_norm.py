r"""Batch normalisation over (N, H, W), one mean and variance per channel.

With $M = N H W$ values per channel, mean $\mu$ and variance $\sigma^2$,

$$ \hat x = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}, \qquad y = \gamma\,\hat x + \beta $$

Source: Ioffe and Szegedy 2015, "Batch normalization", algorithm 1 and section 3.
"""

from __future__ import annotations

from typing import NamedTuple

from minires.backend import Array, accumulation_dtype, operation


class BatchNormCache(NamedTuple):
    """What `batch_norm_backward` needs: x (N, C, H, W) and weight, mean, inv_std, each (C,).

    `batch_statistics` is False when the running statistics were used: they are constants, so no
    gradient flows through them.
    """

    x: Array
    weight: Array
    mean: Array
    inv_std: Array
    batch_statistics: bool


def per_channel(v: Array, dtype) -> Array:
    """v (C,) as (1, C, 1, 1), to meet an (N, C, H, W) array."""
    return v.astype(dtype, copy=False)[None, :, None, None]


def batch_statistics(x: Array) -> tuple[Array, Array]:
    """The mean and the biased variance of x (N, C, H, W) over (N, H, W): two arrays (C,).

    Two passes: the variance is the mean of the squared deviations. The one-pass formula
    E[x^2] - E[x]^2 would subtract two nearly equal numbers.
    """
    dtype = accumulation_dtype(x.dtype)
    mean = x.mean(axis=(0, 2, 3), dtype=dtype)
    centred = x - per_channel(mean, dtype)
    return mean, (centred * centred).mean(axis=(0, 2, 3), dtype=dtype)


@operation
def batch_norm_forward(
    x: Array,
    weight: Array,
    bias: Array,
    running_mean: Array,
    running_var: Array,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, BatchNormCache]:
    """Normalise x (N, C, H, W) per channel: y (N, C, H, W) and the cache.

    weight and bias are gamma and beta, (C,). In training the statistics are those of the batch, and
    the running buffers (C,) move towards them in place: `running += momentum * (batch - running)`,
    with the unbiased variance (divided by M - 1), as PyTorch has it. Otherwise the running
    statistics are used and nothing is written.
    """
    if training:
        mean, variance = batch_statistics(x)
        count = x.shape[0] * x.shape[2] * x.shape[3]
        unbiased = variance * (count / max(count - 1, 1))
        running_mean += momentum * (mean.astype(running_mean.dtype) - running_mean)
        running_var += momentum * (unbiased.astype(running_var.dtype) - running_var)
    else:
        mean, variance = running_mean.copy(), running_var
    inv_std = (variance + eps) ** -0.5
    scale = weight * inv_std
    shift = bias - mean * scale
    y = x * per_channel(scale, x.dtype) + per_channel(shift, x.dtype)
    return y, BatchNormCache(x, weight, mean, inv_std, training)


@operation
def batch_norm_backward(grad_output: Array, cache: BatchNormCache) -> tuple[Array, Array, Array]:
    r"""The gradients grad_x (N, C, H, W), grad_weight (C,) and grad_bias (C,).

    grad_output: (N, C, H, W), written $g$. Per channel, sums running over its $M$ values,

    $$ \partial L/\partial\beta = \sum g, \qquad \partial L/\partial\gamma = \sum g\,\hat x $$
    $$ \partial L/\partial x = \frac{\gamma}{\sqrt{\sigma^2+\epsilon}} \Big( g
       - \frac1M \sum g - \hat x\,\frac1M \sum g\,\hat x \Big) $$

    The two subtracted terms are what flows through the mean and through the variance. With running
    statistics both are absent.
    """
    x, weight, mean, inv_std, uses_batch = cache
    dtype = accumulation_dtype(x.dtype)
    x_hat = (x - per_channel(mean, dtype)) * per_channel(inv_std, dtype)
    grad_bias = grad_output.sum(axis=(0, 2, 3), dtype=dtype)
    grad_weight = (grad_output * x_hat).sum(axis=(0, 2, 3), dtype=dtype)
    grad_x = grad_output.astype(dtype, copy=False)
    if uses_batch:
        count = x.shape[0] * x.shape[2] * x.shape[3]
        through_mean = per_channel(grad_bias / count, dtype)
        through_variance = x_hat * per_channel(grad_weight / count, dtype)
        grad_x = grad_x - through_mean - through_variance
    grad_x = grad_x * per_channel(weight * inv_std, dtype)
    return grad_x.astype(x.dtype, copy=False), grad_weight, grad_bias
