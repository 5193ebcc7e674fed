r"""Winograd for a 3x3 convolution with stride 2: two taps on even pixels, one on odd pixels.

With stride 2 the outer taps of a filter meet only every second pixel of the padded input, the
middle tap only those between. Along one axis, with $e_j = d_{2j}$ and $f_j = d_{2j+1}$,

$$ y_i = w_0\,e_i + w_2\,e_{i+1} + w_1\,f_i $$

The first two terms are a convolution with two taps at stride 1, for which four outputs need five
multiplications; the last is one with a single tap, which the same transforms take: its tap at the
fifth position is zero, so it has four. In two dimensions that makes (5 + 4)^2 = 81 products for 16
outputs, where the direct way takes 144. They add up at 25 positions before the output transform:

$$ y = A^T \left[ \sum_{phases} (G w G^T) \odot (B^T d B) \right] A $$

Backward goes back through these steps: with $g$ a tile of grad_output and $M = A\,g\,A^T$, each of
the 81 products has the gradient of its position, which makes the gradients of window and filter,

$$ \partial d = B \left[ (G w G^T) \odot M \right] B^T, \qquad
   \partial w = G^T \left[ (B^T d B) \odot M \right] G $$

Windows overlap by one line; their shares are added.

Source: Lavin and Gray 2015, section 4.1, for F(m, r) with the points 0, 1, -1, 2 and infinity;
Huang et al. 2020, "DWM: a decomposable Winograd method", for the phases.
"""

from __future__ import annotations

import numpy as np

from minires.backend import Array
from minires.kernels.cpu import loops
from minires.kernels.cpu.buffers import logical, pool
from minires.kernels.cpu.convolution import Winograd, padded_input
from minires.kernels.cpu.winograd import TILE

_EVEN = np.array(  # G for the taps w0 and w2
    [[1 / 2, 0, 0], [-1 / 2, 0, -1 / 2], [-1 / 6, 0, 1 / 6], [1 / 6, 0, 1 / 3], [0, 0, 1]]
)
_ODD = np.array([[0, 1 / 2, 0], [0, -1 / 2, 0], [0, -1 / 6, 0], [0, 1 / 6, 0]])  # and for w1

FILTER_TRANSFORM = np.concatenate(
    [
        np.einsum("ia,jb->ijab", rows, columns).reshape(-1, 9)
        for rows in (_EVEN, _ODD)
        for columns in (_EVEN, _ODD)
    ]
).astype(np.float32)
FILTER_ADJOINT = np.ascontiguousarray(FILTER_TRANSFORM.T)

TARGETS = np.concatenate(
    [
        (5 * np.arange(rows)[:, None] + np.arange(columns)).ravel()
        for rows in (5, 4)
        for columns in (5, 4)
    ]
)
"""To which of the 25 positions of the output each of the 81 products is added."""

_FILTER_BYTES = 20_000_000  # with larger transformed filters im2col is as fast


class StridedWinograd(Winograd):
    """A 3x3 convolution with stride 2 and padding 1, H and W multiples of 8, in compiled loops."""

    stride = 2
    border = 0
    targets = TARGETS
    transform = turned_transform = FILTER_TRANSFORM
    adjoint = FILTER_ADJOINT

    @staticmethod
    def fits(x: Array, weight: Array, stride: int, padding: int) -> bool:
        """Whether this strategy can take the convolution."""
        h, w = x.shape[2:]
        return (
            weight.shape[2:] == (3, 3)
            and stride == 2
            and padding == 1
            and h % (2 * TILE) == 0
            and w % (2 * TILE) == 0
            and weight[:, :, 0, 0].size * 4 * len(TARGETS) <= _FILTER_BYTES
            and loops.units() is not None
        )

    def _begin_arrays(self, need_grad_x: bool) -> None:
        self.padded = padded_input(self.x, 1)
        self.grad_x = pool.take((self.h + 2, self.w + 2, self.n * self.c)) if need_grad_x else None

    def grad_input(self) -> Array | None:
        """The gradient (N, C, H, W) of x."""
        if self.grad_x is None:
            return None
        padded = self.grad_x.reshape(self.h + 2, self.w + 2, self.n, self.c)
        return logical(padded[1:-1, 1:-1])
