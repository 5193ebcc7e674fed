"""Winograd over a thread's whole share of the images in one call, where the loops are compiled.

Each function does what `fused` does chunk by chunk with the same convolution, or returns False and
has done nothing: NumPy does the loops, or its BLAS was not found, or the convolution is not
Winograd's.
"""

from __future__ import annotations

import numpy as np

from minires.backend import options
from minires.kernels.cpu import loops
from minires.kernels.cpu.convolution import PLANE_PADDING, Winograd
from minires.kernels.cpu.products import fast_rows
from minires.kernels.cpu.regions import Region
from minires.kernels.cpu.strided import StridedWinograd
from minires.kernels.cpu.winograd import TILE

_PLANE_BYTES = 600_000  # of the planes of some images: half the second-level cache
_NOTHING = np.empty((0, 0, 0), np.float32)


def convolve(conv, images: slice, y: np.ndarray, moments: np.ndarray, ws) -> bool:
    """y (H, W, N K) = conv(x) for `images`, and its `moments` (3, K)."""
    units = _units(conv)
    if units is None:
        return False
    block, at_once = _sizes(conv, conv.c, conv.k)
    v, m = _planes(conv, block, ws)
    where = images.start, images.stop, block, at_once
    units.convolve(loops.sgemm_address(), *_geometry(conv), conv.filters, *where, v, m, y, moments)
    return True


def evaluate(conv, images: slice, out: Region, shortcut: Region | None, relu: bool, ws) -> bool:
    """out = relu(conv(x) + bias + shortcut) for `images`."""
    units = _units(conv)
    if units is None:
        return False
    block, at_once = _sizes(conv, conv.c, conv.k)
    v, m = _planes(conv, block, ws)
    y = ws.get("chunk", (TILE, conv.output_size[1], block * conv.k))
    where = images.start, images.stop, block, at_once
    extra = out if shortcut is None else shortcut
    units.evaluate(
        loops.sgemm_address(), *_geometry(conv), conv.filters, conv.bias, *where, v, m, y,
        out, extra, shortcut is not None, relu,
    )  # fmt: skip
    return True


def differentiate(
    conv, images: slice, grad: Region, y: Region, coefficients, scale, shift, ws, thread: int
) -> bool:
    """The convolution's gradients, for `images`, from grad_y = a grad + b y + c."""
    units = _units(conv)
    if units is None:
        return False
    block, at_once = _sizes(conv, conv.k, conv.c, conv.totals[thread].nbytes)
    v, m = _planes(conv, block, ws)
    chunk = ws.get("chunk", (TILE, conv.output_size[1], block * conv.k))
    grad_x, filters, turned = _NOTHING, _NOTHING, True
    if conv.grad_x is not None:
        grad_x, filters, turned = conv.grad_x, conv.turned, conv.turned.flags.c_contiguous
    units.differentiate(
        loops.sgemm_address(), *_geometry(conv), images.start, images.stop, block, at_once,
        v, m, chunk, grad, y, coefficients, scale, shift, conv.totals[thread],
        grad_x, filters if turned else filters.transpose(0, 2, 1), turned,
    )  # fmt: skip
    return True


def _units(conv):
    """The compiled functions, or None."""
    return loops.units() if type(conv) in (Winograd, StridedWinograd) else None


def _geometry(conv):
    return conv.x, conv.stride, conv.targets


def _sizes(conv, inner: int, columns: int, at_least: int = 0) -> tuple[int, int]:
    """How many images to work on together, and how many rows of their planes to multiply at once.

    So few that the planes fit the cache and, forward, one product is in the size that BLAS is
    fastest at. Backward they are as large as the gradient of the filters (`at_least` bytes), which
    is read and written with each chunk.
    """
    fast = fast_rows(inner, columns)
    share = -(-conv.n // max(1, options.threads))
    if fast is None:
        return share, 1 << 30
    rows = max(_PLANE_BYTES, at_least) // (4 * len(conv.targets) * max(inner, columns))
    if not at_least:
        rows = min(rows, fast)
    return max(1, min(share, rows // (conv.output_size[1] // TILE))), fast


def _planes(conv, block: int, ws) -> tuple[np.ndarray, np.ndarray]:
    rows = conv.output_size[1] // TILE * block
    return (
        ws.get("V", (len(conv.targets), rows * conv.c + PLANE_PADDING)),
        ws.get("M", (conv.targets.max() + 1, rows * conv.k + PLANE_PADDING)),
    )
