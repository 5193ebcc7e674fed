"""Winograd over a thread's whole share of the images in one call, where the loops are compiled.

Each function does what `fused` does chunk by chunk with the same convolution, or returns False and
has done nothing: NumPy does the loops, or the convolution is not Winograd's.
"""

from __future__ import annotations

import numpy as np

from minires.backend import options
from minires.kernels.cpu import loops
from minires.kernels.cpu.convolution import PLANE_PADDING, Winograd
from minires.kernels.cpu.regions import Region
from minires.kernels.cpu.strided import StridedWinograd
from minires.kernels.cpu.winograd import TILE

_ROWS = 64  # tiles that one product takes
_NARROW = 2048  # values that it takes at least, in a position
_NOTHING = np.empty((0, 0, 0), np.float32)


def convolve(conv, images: slice, y: np.ndarray, moments: np.ndarray, ws) -> bool:
    """y (H, W, N K) = conv(x) for `images`, and its `moments` (3, K)."""
    units = _units(conv)
    if units is None:
        return False
    block = _images_at_once(conv)
    v, m = _planes(conv, block, ws)
    where = images.start, images.stop, block
    units.convolve(*_geometry(conv), conv.filters, *where, v, m, y, moments)
    return True


def evaluate(conv, images: slice, out: Region, shortcut: Region | None, relu: bool, ws) -> bool:
    """out = relu(conv(x) + bias + shortcut) for `images`."""
    units = _units(conv)
    if units is None:
        return False
    block = _images_at_once(conv)
    v, m = _planes(conv, block, ws)
    y = ws.get("chunk", (TILE, conv.output_size[1], block * conv.k))
    where = images.start, images.stop, block
    extra = out if shortcut is None else shortcut
    units.evaluate(
        *_geometry(conv), conv.filters, conv.bias, *where, v, m, y, out, extra,
        shortcut is not None, relu,
    )  # fmt: skip
    return True


def evaluate_two(
    one, two, images: slice, out: Region, shortcut: Region | None, relus: tuple[bool, bool], ws
) -> None:
    """`evaluate` of two convolutions in a row, of which `two` is not strided, for `images`.

    The output of the first stays in scratch memory, for a few images at a time.
    """
    units = loops.units()
    block = min(_images_at_once(one, 2), _images_at_once(two, 2))
    (v1, m1), (v2, m2) = _planes(one, block, ws), _planes(two, block, ws)
    h, w = two.output_size
    between = ws.get("between", (h + 2, w + 2, block * two.c))
    y = ws.get("chunk", (TILE, w, block * max(one.k, two.k)))
    extra = out if shortcut is None else shortcut
    units.evaluate_two(
        *_geometry(one), one.filters, one.bias, v1, m1, relus[0],
        between, two.targets, two.filters, two.bias, v2, m2, relus[1],
        images.start, images.stop, block, y, out, extra, shortcut is not None,
    )  # fmt: skip


def differentiate(
    conv, images: slice, grad: Region, y: Region, coefficients, scale, shift, ws, thread: int
) -> bool:
    """The convolution's gradients, for `images`, from grad_y = a grad + b y + c."""
    units = _units(conv)
    if units is None:
        return False
    block = _images_at_once(conv)
    v, m = _planes(conv, block, ws)
    height, width = conv.output_size
    around = 2 * conv.border
    chunk = ws.get("chunk", (TILE + around, width + around, block * conv.k))
    grad_x, turned = _NOTHING, _NOTHING
    if conv.grad_x is not None:
        grad_x, turned = conv.grad_x, conv.turned
    rest = (
        conv.targets, images.start, images.stop, block, v, m, chunk, grad, y,
        coefficients, scale, shift, conv.totals[thread], grad_x, turned,
    )  # fmt: skip
    if conv.stride == 1:
        units.differentiate(conv.pixels, height, *rest)
    else:
        units.differentiate_strided(conv.padded, *rest)
    return True


def _units(conv):
    """The compiled functions, or None."""
    return loops.units() if type(conv) in (Winograd, StridedWinograd) else None


def _geometry(conv):
    return conv.padded, conv.stride, conv.targets


def _images_at_once(conv, cached: int = 1) -> int:
    """How many images to work on together.

    So few that their planes stay in the cache, and so many that a position's filters, once they are
    loaded, meet enough rows. Where the filters stay in the cache as well (up to 64 channels) and
    the planes of `cached` convolutions have to, they are fewer.
    """
    share = -(-conv.n // max(1, options.threads))
    wide = max(conv.c, conv.k)
    rows = max(_ROWS, _NARROW // wide)
    if wide <= _ROWS:
        rows //= cached
    return max(1, min(share, rows // (conv.output_size[1] // TILE)))


def _planes(conv, block: int, ws) -> tuple[np.ndarray, np.ndarray]:
    rows = conv.output_size[1] // TILE * block
    return (
        ws.get("V", (len(conv.targets), rows * conv.c + PLANE_PADDING)),
        ws.get("M", (conv.targets.max() + 1, rows * conv.k + PLANE_PADDING)),
    )
