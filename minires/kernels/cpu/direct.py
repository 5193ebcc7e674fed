"""Convolution for arrays in memory order (H, W, N, C) by tiled im2col: any square kernel."""

from __future__ import annotations

import numpy as np

from minires.backend import Array
from minires.kernels.cpu import loops
from minires.kernels.cpu.buffers import Workspace, pool
from minires.kernels.cpu.convolution import padded_input, sum_partials, weight_matrix
from minires.kernels.cpu.threads import Share, shards

_COLUMN_BYTES = 1_200_000  # of columns per chunk
_SUM_ROWS = 576  # rows of the weight gradient that are added up at once


class Direct:
    """Any convolution: the windows of a few output rows as a matrix, times the weights."""

    border = 0  # pixels around its rows that `backward` wants of the output's gradient

    def __init__(
        self, x: Array, weight: Array, stride: int, padding: int, bias: Array | None = None
    ) -> None:
        self.n, self.c, self.h, self.w = x.shape
        self.bias = bias
        self.k, _, self.side, _ = weight.shape
        self.stride, self.padding = stride, padding
        self.output_size = tuple(
            (size + 2 * padding - self.side) // stride + 1 for size in (self.h, self.w)
        )
        self.x = padded_input(x, padding)
        self.taps = self.side * self.side
        self.matrix = weight_matrix(weight).reshape(self.taps * self.c, self.k)
        self.shares = [Share(0, self.output_size[0], images) for images in shards(self.n)]
        images = self.shares[0].images.stop
        line_bytes = 4 * self.output_size[1] * images * self.taps * self.c
        self.rows = int(np.clip(_COLUMN_BYTES // line_bytes, 1, self.output_size[0]))

    def blocks(self, images: slice, backward: bool = False) -> list[slice]:
        """A thread's images in the groups that are worked on together: one group."""
        return [images]

    @staticmethod
    def fits(x: Array, weight: Array, stride: int, padding: int) -> bool:
        """Whether this strategy can take the convolution: any square kernel."""
        return weight.shape[2] == weight.shape[3]

    def begin_forward(self) -> None:
        """Nothing: the weights are used as they are."""

    def _columns(self, row: int, rows: int, images: slice, ws: Workspace) -> np.ndarray:
        """The windows of `rows` output rows, in the scratch where Winograd has its planes."""
        count = images.stop - images.start
        columns = ws.get("V", (rows, self.output_size[1], count, self.taps, self.c))
        first, lo = row * self.stride, images.start * self.c
        loops.gather_columns(self.x, first, lo, self.stride, self.side, columns)
        return columns

    def forward(self, row: int, images: slice, y: np.ndarray, at: int, to: int, ws) -> None:
        """Output rows from `row` on (`rows` of them), for `images`, to y (P', Q, L) at row `at`."""
        rows = min(self.rows, self.output_size[0] - row)
        columns = self._columns(row, rows, images, ws)
        count = images.stop - images.start
        product = ws.get("M", (rows, self.output_size[1], count * self.k))
        np.matmul(
            columns.reshape(-1, self.taps * self.c), self.matrix, out=product.reshape(-1, self.k)
        )
        target = y[at : at + rows, :, to : to + count * self.k]
        if self.bias is None:
            np.copyto(target, product)
        else:
            np.add(product, np.tile(self.bias, count), out=target)

    def begin_backward(self, need_grad_x: bool, threads: int) -> None:
        """Make room for the gradients; called once, before the threads start."""
        self.grad_x = None
        if need_grad_x:
            p = 2 * self.padding
            self.grad_x = pool.take((self.h + p, self.w + p, self.n * self.c))
        self.partial = [pool.take((self.taps, self.c, self.k)) for _ in range(threads)]

    def backward(
        self, row: int, images: slice, grad: np.ndarray, ws: Workspace, thread: int
    ) -> None:
        """Take grad (rows, Q, images * K), the gradient of output rows from `row` on."""
        rows = grad.shape[0]
        columns = self._columns(row, rows, images, ws)
        wide, g = columns.reshape(-1, self.taps * self.c), grad.reshape(-1, self.k)
        total = self.partial[thread].reshape(self.matrix.shape)
        if row == 0:
            np.matmul(wide.T, g, out=total)
        else:
            for start in range(0, len(total), _SUM_ROWS):
                block = slice(start, start + _SUM_ROWS)
                part = ws.get("dW part", total[block].shape)
                np.matmul(wide[:, block].T, g, out=part)
                np.add(total[block], part, out=total[block])
        if self.grad_x is None:
            return
        lo, hi = images.start * self.c, images.stop * self.c
        if row == 0:
            self.grad_x[:, :, lo:hi] = 0
        np.matmul(g, self.matrix.T, out=wide)
        loops.scatter_columns(columns, self.grad_x, row * self.stride, lo, self.stride, self.side)

    def finish_thread(self, ws: Workspace, thread: int) -> None:
        """Nothing is left to do: the sum over this thread's images is the gradient."""

    def grad_weight(self) -> Array:
        """The gradient (K, C, side, side), all threads together."""
        return sum_partials(self.partial, (self.side, self.side, self.c, self.k))

    def grad_input(self) -> Array | None:
        """The gradient (N, C, H, W) of x."""
        if self.grad_x is None:
            return None
        p = self.padding
        padded = self.grad_x.reshape(self.h + 2 * p, self.w + 2 * p, self.n, self.c)
        return padded[p : p + self.h, p : p + self.w].transpose(2, 3, 0, 1)
