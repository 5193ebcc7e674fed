"""Which way a convolution is computed."""

from __future__ import annotations

import numpy as np

from minires.backend import Array, options
from minires.kernels.cpu import loops
from minires.kernels.cpu.convolution import Winograd, WinogradByChannels
from minires.kernels.cpu.direct import Direct
from minires.kernels.cpu.strided import StridedWinograd

FILTER_BYTES = 10_000_000  # larger transformed filters are made for some channels at a time


def strategy(
    x: Array,
    weight: Array,
    stride: int,
    padding: int,
    bias: Array | None = None,
    unit: bool = False,
):
    """The fastest way to compute this convolution, or None where only the reference can.

    `bias` (K,), if given, is added to the output. `unit` says that the caller asks `whole` first,
    the only way to run a `StridedWinograd`.
    """
    if x.dtype != np.float32 or weight.dtype != np.float32 or 0 in x.shape:
        return None
    if options.conv != "direct" and Winograd.fits(x, weight, stride, padding):
        # Compiled loops have memory to spare, and are 10 to 20% faster with all filters at once.
        large = 36 * weight[:, :, 0, 0].size * 4 > FILTER_BYTES and not loops.compiled_in_use()
        return (WinogradByChannels if large else Winograd)(x, weight, stride, padding, bias)
    if unit and options.conv != "direct" and StridedWinograd.fits(x, weight, stride, padding):
        return StridedWinograd(x, weight, stride, padding, bias)
    if Direct.fits(x, weight, stride, padding):
        return Direct(x, weight, stride, padding, bias)
    return None
