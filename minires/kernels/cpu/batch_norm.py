"""Batch norm on its own, in memory order (H, W, N, C), and the part of it that `fused` uses too.

The statistics are those of the whole batch, of which this process may have a share (`processes`):
each process, and each thread in it, takes the moments of its images, and all combine them in the
same order, so every process goes on with the same bits.
"""

from __future__ import annotations

import numpy as np

from minires.backend import Array, kernel
from minires.functional.batch_norm import BatchNormCache
from minires.kernels.cpu import loops
from minires.kernels.cpu.buffers import as_hwnc, logical, pool, to_hwnc
from minires.kernels.cpu.elementwise import combine_moments
from minires.kernels.cpu.regions import region
from minires.kernels.cpu.threads import parallel, pieces, workspace
from minires.processes import gathered, images_in_batch


@kernel("batch_norm_forward", "cpu")
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
    """`functional.batch_norm.batch_norm_forward`."""
    if x.dtype != np.float32 or weight.dtype != np.float32 or x.size == 0:
        return NotImplemented
    hwnc = to_hwnc(x)
    h, w, n, c = hwnc.shape
    source, parts = region(hwnc), pieces(h, n, c)
    if training:
        moments = [np.zeros((3, c)) for _ in parts]

        def measure(thread: int) -> None:
            row, rows, lo, length = parts[thread]
            ws = workspace(thread)
            loops.add_moments(source.at(row, lo), rows, w, length, moments[thread], ws)

        parallel(measure, len(parts))
        count, mean, variance = batch_moments(moments)
        update_running(running_mean, running_var, mean, variance, count, momentum)
    else:
        mean, variance = running_mean.astype(np.float64), running_var.astype(np.float64)
    inv_std, scale, shift = affine(weight, bias, mean, variance, eps)
    y = pool.take(hwnc.shape)
    target = region(y)

    def normalize(thread: int) -> None:
        row, rows, lo, length = parts[thread]
        places = source.at(row, lo), target.at(row, lo), None
        loops.normalize(*places, rows, w, length, scale, shift, False, workspace(thread))

    parallel(normalize, len(parts))
    single = mean.astype(np.float32), inv_std.astype(np.float32)
    return logical(y), BatchNormCache(logical(hwnc), weight, *single, training)


@kernel("batch_norm_backward", "cpu")
def batch_norm_backward(grad_output: Array, cache: BatchNormCache) -> tuple[Array, Array, Array]:
    """`functional.batch_norm.batch_norm_backward`."""
    x = as_hwnc(cache.x)
    if x is None or grad_output.dtype != np.float32 or cache.weight.dtype != np.float32:
        return NotImplemented
    h, w, n, c = x.shape
    source, grad, parts = region(x), region(to_hwnc(grad_output)), pieces(h, n, c)
    sums = [np.zeros((2, c)) for _ in parts]
    none = loops.NONE, loops.NONE

    def add(thread: int) -> None:
        row, rows, lo, length = parts[thread]
        places = grad.at(row, lo), source.at(row, lo), None, None
        ws = workspace(thread)
        loops.gradient_sums(*places, rows, w, length, cache.mean, *none, sums[thread], ws)

    parallel(add, len(parts))
    grad_weight, grad_bias, coefficients = gradients(sum(sums[1:], sums[0]), x.shape, cache)
    grad_x = pool.take(x.shape)
    target = region(grad_x)

    def differentiate(thread: int) -> None:
        row, rows, lo, length = parts[thread]
        places = grad.at(row, lo), source.at(row, lo), target.at(row, lo)
        loops.input_gradient(*places, rows, w, length, coefficients, *none, workspace(thread))

    parallel(differentiate, len(parts))
    return logical(grad_x), grad_weight, grad_bias


def affine(gamma, beta, mean, variance, eps) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """1 / std (float64), and batch norm as y * scale + shift."""
    inv_std = 1.0 / np.sqrt(variance + eps)
    scale = gamma * inv_std
    shift = beta - mean * scale
    return inv_std, scale.astype(np.float32), shift.astype(np.float32)


def batch_moments(moments: list[np.ndarray]) -> tuple[float, np.ndarray, np.ndarray]:
    """The batch's count, mean (K,) and biased variance (K,), from the `moments` of the threads."""
    total = _combined(gathered(_combined(moments)))
    return total[0, 0], total[1], total[2] / total[0, 0]


def _combined(moments) -> np.ndarray:
    total = moments[0].copy()
    for other in moments[1:]:
        combine_moments(total, other[0, 0], other[1], other[2])
    return total


def update_running(running_mean, running_var, mean, variance, count, momentum) -> None:
    """Move the running statistics towards the batch's, in place; `count` values a channel."""
    unbiased = variance * (count / max(count - 1, 1))
    running_mean += momentum * (mean.astype(np.float32) - running_mean)
    running_var += momentum * (unbiased.astype(np.float32) - running_var)


def gradients(
    own: np.ndarray, shape: tuple[int, ...], norm: BatchNormCache
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """grad_gamma and grad_beta (K,), and the (3, K) a, b, c of grad_x = a g + b x + c.

    own: (2, K) float64, sum(g) and sum(g (x - mean)) over the images of this process, of which x
    has the `shape` (H, W, N, K). The gradients of gamma and beta are this process's shares.
    """
    inv_std, mean = norm.inv_std.astype(np.float64), norm.mean.astype(np.float64)
    scale = norm.weight * inv_std
    if norm.batch_statistics:
        # grad_x = scale * (g - sum(g)/M - x_hat * sum(g x_hat)/M), with the whole batch's sums
        sums = sum(gathered(own))
        count = shape[0] * shape[1] * images_in_batch(shape[2])
        b = -scale * inv_std * sums[1] * inv_std / count
        c = -scale * sums[0] / count - b * mean
    else:
        b = c = np.zeros_like(scale)
    coefficients = np.stack([scale, b, c]).astype(np.float32)
    grad_gamma, grad_beta = own[1] * inv_std, own[0]
    return grad_gamma.astype(np.float32), grad_beta.astype(np.float32), coefficients
