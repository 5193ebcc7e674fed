"""Convolution for arrays in memory order (H, W, N, C): Winograd where it fits, else tiled im2col.

A strategy object stands for one call of one convolution. It is used by several threads at once,
each with its own slice of the images and its own scratch memory: `forward` computes a few rows of
the output, `backward` takes a few rows of the output's gradient. Rows are few so that a chunk
stays in the second-level cache between one loop and the next.
"""

from __future__ import annotations

import numpy as np

from minires.backend import Array, options
from minires.kernels.cpu import loops
from minires.kernels.cpu.buffers import Workspace, pool, to_hwnc
from minires.kernels.cpu.winograd import FILTER_ADJOINT, FILTER_TRANSFORM, TILE

_PLANE_PADDING = 272  # values between planes, so that the 36 do not fall on the same cache lines
_COLUMN_BYTES = 1_200_000  # of im2col columns per chunk
_FILTER_BYTES = 10_000_000  # larger transformed filters are made two positions at a time
_SUM_ROWS = 576  # rows of im2col's weight gradient that are added up at once
_SUM_COLUMNS = 65_536  # columns of a large weight gradient that are added up at once


def weight_matrix(weight: Array) -> np.ndarray:
    """weight (K, C, kh, kw) as (kh kw, C, K) in one piece: a view if the memory has that order."""
    k, c, kh, kw = weight.shape
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0)).reshape(kh * kw, c, k)


def padded_input(x: Array, padding: int) -> np.ndarray:
    """x (N, C, H, W) as (H + 2 padding, W + 2 padding, N C), zeros around; copied if need be."""
    hwnc = to_hwnc(x)
    h, w, n, c = hwnc.shape
    if padding == 0:
        owner = hwnc if hwnc.flags.c_contiguous else _copy(hwnc)
    elif padding == 1:
        owner = pool.bordered_around(hwnc)
        if owner is None:
            owner = pool.take_bordered(h, w, n, c)
            np.copyto(owner[1:-1, 1:-1], hwnc)
    else:
        owner = pool.take((h + 2 * padding, w + 2 * padding, n, c))
        owner[...] = 0
        np.copyto(owner[padding:-padding, padding:-padding], hwnc)
    return owner.reshape(h + 2 * padding, w + 2 * padding, n * c)


def _copy(hwnc: np.ndarray) -> np.ndarray:
    copy = pool.take(hwnc.shape)
    np.copyto(copy, hwnc)
    return copy


class Winograd:
    """A 3x3 convolution with stride 1 and padding 1, H and W multiples of 4: `winograd`."""

    def __init__(self, x: Array, weight: Array, stride: int, padding: int) -> None:
        n, self.c, self.h, self.w = x.shape
        self.k, self.n = weight.shape[0], n
        images = -(-n // max(1, options.threads))
        plane_bytes = 36 * 4 * (self.w // TILE) * images * max(self.c, self.k)
        self.rows = TILE * loops.tile_rows(self.h // TILE, plane_bytes)
        self.output_size = (self.h, self.w)
        self.x = padded_input(x, 1)
        self.taps = weight_matrix(weight).reshape(9, -1)
        self.in_groups = 4 * 36 * self.c * self.k > _FILTER_BYTES
        if not self.in_groups:
            self.filters = pool.take((36, self.c, self.k))
            np.matmul(FILTER_TRANSFORM, self.taps, out=self.filters.reshape(36, -1))

    @staticmethod
    def fits(x: Array, weight: Array, stride: int, padding: int) -> bool:
        """Whether this strategy can take the convolution."""
        h, w = x.shape[2:]
        return (
            weight.shape[2:] == (3, 3)
            and stride == 1
            and padding == 1
            and h % TILE == 0
            and w % TILE == 0
            and weight.shape[1] >= 8
        )

    def _planes(self, ws: Workspace, name: str, length: int, rows: int) -> np.ndarray:
        return ws.get(name, (36, rows * (self.w // TILE) * length + _PLANE_PADDING))

    def _matrices(self, planes: np.ndarray, images: int, channels: int, rows: int) -> np.ndarray:
        """Planes as 36 matrices (tiles * images, channels), a view."""
        count = rows * (self.w // TILE) * images
        return planes[:, : count * channels].reshape(36, count, channels)

    def _filter_groups(self, ws: Workspace):
        """The transformed filters as (positions, (positions, C, K)), some positions at a time."""
        size = 2 if self.in_groups else 6
        for first in range(0, 36, size):
            part = slice(first, first + size)
            if self.in_groups:
                group = ws.get("U", (size, self.c, self.k))
                np.matmul(FILTER_TRANSFORM[part], self.taps, out=group.reshape(size, -1))
                yield part, group
            else:
                yield part, self.filters[part]

    def forward(self, row: int, images: slice, y: np.ndarray, at: int, to: int, ws) -> None:
        """The output's rows from `row` on, for `images`, to y (H', W, L) from row `at` on."""
        count, rows = images.stop - images.start, self._tile_rows(row)
        lo, hi = images.start * self.c, images.stop * self.c
        v = self._planes(ws, "V", count * self.c, rows)
        m = self._planes(ws, "M", count * self.k, rows)
        loops.input_transform(self.x, row, rows, lo, hi, v, ws)
        vm = self._matrices(v, count, self.c, rows)
        mm = self._matrices(m, count, self.k, rows)
        if self.in_groups:
            for part, filters in self._filter_groups(ws):
                np.matmul(vm[part], filters, out=mm[part])
        else:
            np.matmul(vm, self.filters, out=mm)
        loops.output_transform(m, y, at, rows, to, to + count * self.k, ws)

    def _tile_rows(self, row: int) -> int:
        return min(self.rows, self.h - row) // TILE

    def begin_backward(self, need_grad_x: bool, threads: int) -> None:
        """Make room for the gradients; called once, before the threads start."""
        self.grad_x = None
        self.turned = None
        if need_grad_x:
            self.grad_x = pool.take((self.h + 2, self.w + 2, self.n * self.c))
            if self.c <= 128 and not self.in_groups:  # BLAS is slow with small transposed matrices
                self.turned = pool.take((36, self.k, self.c))
                np.copyto(self.turned, self.filters.transpose(0, 2, 1))
        self.partial = [pool.take((9, self.c, self.k)) for _ in range(threads)]
        if not self.in_groups:
            self.totals = [pool.take((36, self.c, self.k)) for _ in range(threads)]

    def backward(
        self, row: int, images: slice, grad: np.ndarray, ws: Workspace, thread: int
    ) -> None:
        """Take grad (rows, W, images * K), the gradient of the output's rows from `row` on."""
        count, rows = images.stop - images.start, self._tile_rows(row)
        lo, hi = images.start * self.c, images.stop * self.c
        v = self._planes(ws, "V", count * self.c, rows)
        m = self._planes(ws, "M", count * self.k, rows)
        loops.output_adjoint(grad, 0, rows, 0, count * self.k, m, ws)
        loops.input_transform(self.x, row, rows, lo, hi, v, ws)
        vm = self._matrices(v, count, self.c, rows)
        mm = self._matrices(m, count, self.k, rows)
        for part, filters in self._filter_groups(ws):
            self._add_filter_gradient(row, part, vm[part], mm[part], ws, thread)
            if self.grad_x is not None:
                turned = filters.transpose(0, 2, 1) if self.turned is None else self.turned[part]
                np.matmul(mm[part], turned, out=vm[part])
        if self.grad_x is not None:
            first = row if row == 0 else row + 2
            self.grad_x[first : row + 4 * rows + 2, :, lo:hi] = 0
            loops.input_adjoint(v, self.grad_x, row, rows, lo, hi, ws)

    def _add_filter_gradient(self, row, part, v, m, ws: Workspace, thread: int) -> None:
        """Add V^T M of some positions to this thread's share of the weights' gradient."""
        shape = (part.stop - part.start, self.c, self.k)
        if not self.in_groups:
            total = self.totals[thread][part]
            if row == 0:
                np.matmul(v.transpose(0, 2, 1), m, out=total)
            else:
                product = ws.get("dU part", shape)
                np.matmul(v.transpose(0, 2, 1), m, out=product)
                np.add(total, product, out=total)
            return
        product = ws.get("dU part", shape)
        np.matmul(v.transpose(0, 2, 1), m, out=product)
        flat, total = product.reshape(shape[0], -1), self.partial[thread].reshape(9, -1)
        for start in range(0, flat.shape[1], _SUM_COLUMNS):
            columns = slice(start, start + _SUM_COLUMNS)
            share = ws.get("dW part", (9, flat[:, columns].shape[1]))
            np.matmul(FILTER_ADJOINT[:, part], flat[:, columns], out=share)
            if row == 0 and part.start == 0:
                np.copyto(total[:, columns], share)
            else:
                np.add(total[:, columns], share, out=total[:, columns])

    def finish_thread(self, ws: Workspace, thread: int) -> None:
        """Turn this thread's sum over its images into a gradient of the weights."""
        if not self.in_groups:
            total, share = self.totals[thread], self.partial[thread]
            np.matmul(FILTER_ADJOINT, total.reshape(36, -1), out=share.reshape(9, -1))

    def grad_weight(self) -> Array:
        """The gradient (K, C, 3, 3), all threads together."""
        return _sum_partials(self.partial, (3, 3, self.c, self.k))

    def grad_input(self) -> Array | None:
        """The gradient (N, C, H, W) of x."""
        if self.grad_x is None:
            return None
        padded = self.grad_x.reshape(self.h + 2, self.w + 2, self.n, self.c)
        return padded[1:-1, 1:-1].transpose(2, 3, 0, 1)


class Direct:
    """Any convolution: the windows of a few output rows as a matrix, times the weights."""

    def __init__(self, x: Array, weight: Array, stride: int, padding: int) -> None:
        self.n, self.c, self.h, self.w = x.shape
        self.k, _, self.side, _ = weight.shape
        self.stride, self.padding = stride, padding
        self.output_size = tuple(
            (size + 2 * padding - self.side) // stride + 1 for size in (self.h, self.w)
        )
        self.x = padded_input(x, padding)
        self.taps = self.side * self.side
        self.matrix = weight_matrix(weight).reshape(self.taps * self.c, self.k)
        images = -(-self.n // max(1, options.threads))
        line_bytes = 4 * self.output_size[1] * images * self.taps * self.c
        self.rows = int(np.clip(_COLUMN_BYTES // line_bytes, 1, self.output_size[0]))

    @staticmethod
    def fits(x: Array, weight: Array, stride: int, padding: int) -> bool:
        """Whether this strategy can take the convolution: any square kernel."""
        return weight.shape[2] == weight.shape[3]

    def _columns(self, row: int, rows: int, images: slice, ws: Workspace) -> np.ndarray:
        """The windows of `rows` output rows, in the scratch where Winograd has its planes."""
        count = images.stop - images.start
        columns = ws.get("V", (rows, self.output_size[1], count, self.taps, self.c))
        for r in range(rows):
            loops.gather_columns(
                self.x,
                (row + r) * self.stride,
                images.start * self.c,
                count,
                self.c,
                self.stride,
                self.side,
                columns[r],
            )
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
        y[at : at + rows, :, to : to + count * self.k] = product

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
        count = images.stop - images.start
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
        for r in range(rows):
            loops.scatter_columns(
                columns[r],
                self.grad_x,
                (row + r) * self.stride,
                lo,
                count,
                self.c,
                self.stride,
                self.side,
            )

    def finish_thread(self, ws: Workspace, thread: int) -> None:
        """Nothing is left to do: the sum over this thread's images is the gradient."""

    def grad_weight(self) -> Array:
        """The gradient (K, C, side, side), all threads together."""
        return _sum_partials(self.partial, (self.side, self.side, self.c, self.k))

    def grad_input(self) -> Array | None:
        """The gradient (N, C, H, W) of x."""
        if self.grad_x is None:
            return None
        p = self.padding
        padded = self.grad_x.reshape(self.h + 2 * p, self.w + 2 * p, self.n, self.c)
        return padded[p : p + self.h, p : p + self.w].transpose(2, 3, 0, 1)


def _sum_partials(partials: list[np.ndarray], shape: tuple[int, ...]) -> Array:
    """The sum of the threads' shares, in the order of the threads, as (K, C, kh, kw)."""
    total = partials[0]
    for part in partials[1:]:
        np.add(total, part, out=total)
    return total.reshape(shape).transpose(3, 2, 0, 1)


def strategy(x: Array, weight: Array, stride: int, padding: int):
    """The fastest way to compute this convolution, or None where only the reference can."""
    if x.dtype != np.float32 or weight.dtype != np.float32 or 0 in x.shape:
        return None
    ways = (Direct,) if options.conv == "direct" else (Winograd, Direct)
    for way in ways:
        if way.fits(x, weight, stride, padding):
            return way(x, weight, stride, padding)
    return None
