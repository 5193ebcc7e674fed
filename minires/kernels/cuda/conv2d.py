"""A convolution on its own, and the choice of the rung that runs it."""

from __future__ import annotations

import numpy as np

from minires.backend import Array, kernel, options
from minires.functional.conv import Conv2dCache
from minires.kernels.cuda import hopper, tma
from minires.kernels.cuda.arrays import is_activation, logical, to_nhwc
from minires.kernels.cuda.columns import Columns
from minires.kernels.cuda.implicit import Implicit
from minires.kernels.cuda.precision import AMPERE
from minires.kernels.cuda.runtime import capability
from minires.kernels.cuda.step import add_bias, column_sums

switched_off: set[type] = set()
"""Rungs that `self_check` found wrong on this GPU."""


def rungs(dtype: np.dtype) -> list[type]:
    """The rungs that may run on this GPU for activations of `dtype`, the best first.

    The implicit product for 16-bit types from compute capability 8.0 on, that of `hopper` on 9.0,
    and with MINIRES_TMA=1 that of `tma`; columns for all else, and with `--conv direct`.
    """
    found: list[type] = [Columns]
    if dtype.itemsize == 2 and options.conv == "auto" and capability() >= AMPERE:
        found.insert(0, Implicit)
        if hopper.is_here():
            found.insert(0, hopper.Hopper)
            if tma.is_on() and tma.is_here():
                found.insert(0, tma.Tma)
    return [rung for rung in found if rung not in switched_off]


def strategy(x: Array, weight: Array, stride: int, padding: int) -> Columns | Implicit | None:
    """The best rung for this convolution; None where there is none: the reference then runs."""
    if not is_activation(x) or weight.ndim != 4 or weight.dtype != np.float32:
        return None
    n, c, h, w = x.shape
    found = rungs(x.dtype)
    return found[0]((n, h, w, c), weight, stride, padding) if found else None


@kernel("conv2d_forward", "gpu")
def conv2d_forward(
    x: Array, weight: Array, bias: Array | None = None, stride: int = 1, padding: int = 0
) -> tuple[Array, Conv2dCache]:
    """`functional.conv.conv2d_forward`."""
    conv = strategy(x, weight, stride, padding)
    if conv is None:
        return NotImplemented
    y, _ = conv.forward(to_nhwc(x), weight)
    if bias is not None:
        add_bias(y, bias)
    return logical(y), Conv2dCache(x, weight, bias is not None, stride, padding)


@kernel("conv2d_backward", "gpu")
def conv2d_backward(
    grad_output: Array, cache: Conv2dCache, need_grad_x: bool = True
) -> tuple[Array | None, Array, Array | None]:
    """`functional.conv.conv2d_backward`."""
    x, weight, has_bias, stride, padding = cache
    conv = strategy(x, weight, stride, padding)
    if conv is None or not is_activation(grad_output, x):
        return NotImplemented
    grad = to_nhwc(grad_output)
    grad_bias = None
    if has_bias:
        grad_bias = column_sums(grad.reshape(-1, grad.shape[3]))
    grad_x = logical(conv.input_gradient(grad, weight)) if need_grad_x else None
    return grad_x, conv.weight_gradient(to_nhwc(x), grad), grad_bias
