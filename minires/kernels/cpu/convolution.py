"""Convolution for arrays in memory order (H, W, N, C) by Winograd, and what all strategies share.

A strategy object stands for one call of one convolution. It is used by several threads at once,
each with its own share of the rows or images and its own scratch memory: `forward` computes a few
rows of the output, `backward` takes a few rows of the output's gradient. Rows are few, and so are
the images that `blocks` deals out, so that a chunk stays in the second-level cache between one loop
and the next.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minires.backend import Array, options
from minires.kernels.cpu import loops
from minires.kernels.cpu.buffers import Workspace, logical, pool, to_hwnc
from minires.kernels.cpu.products import fast_rows, multiply, multiply_turned, transform
from minires.kernels.cpu.regions import region
from minires.kernels.cpu.threads import Share, copy_rows, groups, parallel, shards
from minires.kernels.cpu.winograd import (
    EVERYWHERE,
    FILTER_TRANSFORM,
    TILE,
    TURNED_ADJOINT,
    TURNED_TRANSFORM,
)

PLANE_PADDING = 272  # values between planes, so that the 36 do not fall on the same cache lines
_PLANE_BYTES = 1_200_000  # of the 36 planes, in compiled loops
_SHARED_FILTERS = 1_000_000  # more values than this are made by all threads
_FILTER_CHANNELS = 64  # so many


def weight_matrix(weight: Array) -> np.ndarray:
    """weight (K, C, kh, kw) as (kh kw, C, K) in one piece: a view if the memory has that order."""
    k, c, kh, kw = weight.shape
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0)).reshape(kh * kw, c, k)


def padded_input(x: Array, padding: int) -> np.ndarray:
    """x (N, C, H, W) as (H + 2 padding, W + 2 padding, N C), zeros around; copied if need be."""
    hwnc = x.transpose(2, 3, 0, 1) if padding == 1 else to_hwnc(x)
    h, w, n, c = hwnc.shape
    if padding == 0:
        owner = hwnc if hwnc.flags.c_contiguous else _copy(hwnc)
    elif padding == 1:
        owner = pool.bordered_around(hwnc)
        if owner is None:
            owner = pool.take_bordered(h, w, n, c)
            copy_rows(hwnc, owner[1:-1, 1:-1])
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

    stride = 1
    border = 1  # pixels around its rows that `backward` wants of the output's gradient
    source = None  # what keeps the transformed filters for another time: see `use_again`
    transform = FILTER_TRANSFORM
    turned_transform, adjoint = TURNED_TRANSFORM, TURNED_ADJOINT  # backward
    targets = np.arange(len(transform))  # product p belongs to position targets[p] of the output

    def __init__(
        self, x: Array, weight: Array, stride: int, padding: int, bias: Array | None = None
    ) -> None:
        self._describe(x.shape, weight, bias)
        self.x = x

    @classmethod
    def without_input(
        cls, shape: tuple[int, ...], weight: Array, bias: Array | None = None
    ) -> Winograd:
        """One whose input is known by its `shape` (N, C, H, W) only, for `whole.evaluate_two`."""
        conv = cls.__new__(cls)
        conv.x = None
        conv._describe(shape, weight, bias)
        return conv

    def _describe(self, shape: tuple[int, ...], weight: Array, bias: Array | None) -> None:
        self.n, self.c, self.h, self.w = shape
        self.k, self.bias = weight.shape[0], bias
        self.output_size = (self.h // self.stride, self.w // self.stride)
        self._divide()
        self.taps = weight_matrix(weight)

    def _divide(self) -> None:
        """Choose each thread's share, and how many `rows` to work on at a time.

        NumPy gives each thread some rows of all images where those rows are small enough: one run
        of memory is a third faster to go through than the same values in slices.
        """
        threads = max(1, options.threads)
        image_bytes = 36 * 4 * (self.w // TILE) * max(self.c, self.k)  # of planes, a row of tiles
        height = self.output_size[0]
        if height // TILE % threads == 0 and loops.takes_whole_rows(image_bytes * self.n):
            self.span = height // threads
            self.shares = [Share(s.start, s.stop, slice(0, self.n)) for s in shards(height)]
        else:
            self.span = height
            self.shares = [Share(0, height, images) for images in shards(self.n)]
        images = self.shares[0].images.stop
        self.rows = TILE * loops.tile_rows(self.span // TILE, image_bytes * images)

    def blocks(self, images: slice, backward: bool = False) -> list[slice]:
        """A thread's images in the groups that are worked on together.

        Compiled loops take so few that the planes fit the second-level cache and the products are
        in the size that BLAS is fastest at. Backward each group costs an addition to the gradient
        of the filters, which has to be small beside the products.
        """
        fast = fast_rows(self.c, self.k)
        if fast is None or not loops.compiled_in_use():
            return [images]
        rows = _PLANE_BYTES // (36 * 4 * max(self.c, self.k))
        rows = max(rows, self.c, self.k) if backward else min(rows, fast)
        return groups(images, max(1, rows // (self.w // TILE)))

    def begin_forward(self) -> None:
        """Pad the input and transform the filters; called once, before the threads start."""
        if self.x is not None:
            self.padded = padded_input(self.x, 1)
        if self.source is None:
            self.filters = self._transformed(self.transform, self.taps)
        else:
            self.filters = self.source.transformed(self.transform, self.taps)

    @staticmethod
    def _transformed(matrix: np.ndarray, taps: np.ndarray) -> np.ndarray:
        """Filters (P, C, K) of taps (9, C, K), or (P, K, C) of (9, K, C); matrix (P, 9)."""
        filters = pool.take((len(matrix), *taps.shape[1:]))
        bounds = shards(len(filters)) if filters.size > _SHARED_FILTERS else [slice(None)]

        def work(thread: int) -> None:
            part = bounds[thread]
            transform(matrix[part], taps, filters[part])

        parallel(work, len(bounds))
        return filters

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
        )

    def _planes(self, ws: Workspace, name: str, length: int, rows: int) -> np.ndarray:
        return ws.get(name, (36, rows * (self.w // TILE) * length + PLANE_PADDING))

    def _matrices(self, planes: np.ndarray, images: int, channels: int, rows: int) -> np.ndarray:
        """Planes as 36 matrices (tiles * images, channels), a view."""
        count = rows * (self.w // TILE) * images
        return planes[:, : count * channels].reshape(36, count, channels)

    def forward(self, row: int, images: slice, y: np.ndarray, at: int, to: int, ws) -> None:
        """The output's rows from `row` on, for `images`, to y (H', W, L) from row `at` on."""
        count, rows = images.stop - images.start, self._tile_rows(row)
        lo, hi = images.start * self.c, images.stop * self.c
        v = self._planes(ws, "V", count * self.c, rows)
        m = self._planes(ws, "M", count * self.k, rows)
        loops.input_transform(self.padded, row, rows, lo, hi, v, ws)
        vm = self._matrices(v, count, self.c, rows)
        mm = self._matrices(m, count, self.k, rows)
        self._multiply(vm, mm, ws)
        if self.bias is not None:
            self._add_bias(m, count, rows)
        loops.output_transform(m, y, at, rows, to, to + count * self.k, ws)

    def _add_bias(self, m: np.ndarray, images: int, rows: int) -> None:
        """Add the bias at one position of 36: the one that the output transform copies to all 16
        outputs of a tile."""
        length = images * self.k
        everywhere = m[EVERYWHERE, : rows * (self.w // TILE) * length].reshape(-1, length)
        np.add(everywhere, np.tile(self.bias, images), out=everywhere)

    def _multiply(self, v: np.ndarray, m: np.ndarray, ws: Workspace) -> None:
        """m = v U at each of the 36 positions."""
        multiply(v, self.filters, m)

    def _tile_rows(self, row: int) -> int:
        return min(self.rows, self.span - row % self.span) // TILE

    def begin_backward(self, need_grad_x: bool, threads: int) -> None:
        """Make room for the gradients; called once, before the threads start."""
        self._begin_arrays(need_grad_x)
        self.partial = [pool.take((9, self.c, self.k)) for _ in range(threads)]
        self.begun = [False] * threads
        self._begin_products(threads)

    def _begin_arrays(self, need_grad_x: bool) -> None:
        self.pixels = region(to_hwnc(self.x))
        self.grad_x = pool.take((self.h, self.w, self.n * self.c)) if need_grad_x else None

    def _begin_products(self, threads: int) -> None:
        shape = (len(self.transform), self.c, self.k)
        self.totals = [pool.take(shape) for _ in range(threads)]
        if self.grad_x is not None:
            taps = np.ascontiguousarray(self.taps.transpose(0, 2, 1))
            self.turned = self._transformed(self.turned_transform, taps)

    def backward(
        self, row: int, images: slice, grad: np.ndarray, ws: Workspace, thread: int
    ) -> None:
        """Take grad (rows + 2, W + 2, images * K): the gradient of the output's rows from `row` on,
        and the pixels around them."""
        count, rows = images.stop - images.start, self._tile_rows(row)
        lo, hi = images.start * self.c, images.stop * self.c
        v = self._planes(ws, "V", count * self.c, rows)
        m = self._planes(ws, "M", count * self.k, rows)
        loops.output_adjoint(self.pixels.at(row, lo), rows, self.w, hi - lo, v, ws)
        loops.input_transform(grad, 0, rows, 0, count * self.k, m, ws)
        vm = self._matrices(v, count, self.c, rows)
        mm = self._matrices(m, count, self.k, rows)
        self._multiply_back(vm, mm, ws, thread)
        self.begun[thread] = True
        if self.grad_x is not None:
            loops.output_transform(v, self.grad_x, row, rows, lo, hi, ws)

    def _multiply_back(self, v, m, ws: Workspace, thread: int) -> None:
        """Add v^T m to this thread's gradient of the filters, then v = m U (if x needs one)."""
        for first in range(0, 36, 6):  # six positions at a time, so that the products stay small
            part = slice(first, first + 6)
            total = self.totals[thread][part]
            if not self.begun[thread]:
                multiply_turned(v[part], m[part], total, ws)
            else:
                product = ws.get("dU", total.shape)
                multiply_turned(v[part], m[part], product, ws)
                np.add(total, product, out=total)
        if self.grad_x is not None:
            multiply(m, self.turned, v)

    def finish_thread(self, ws: Workspace, thread: int) -> None:
        """Turn this thread's sum over its images into a gradient of the weights."""
        transform(self.adjoint, self.totals[thread], self.partial[thread])

    def grad_weight(self) -> Array:
        """The gradient (K, C, 3, 3), all threads together."""
        return sum_partials(self.partial, (3, 3, self.c, self.k))

    def grad_input(self) -> Array | None:
        """The gradient (N, C, H, W) of x."""
        if self.grad_x is None:
            return None
        return logical(self.grad_x.reshape(self.h, self.w, self.n, self.c))


class WinogradByChannels(Winograd):
    """Winograd for many channels: 512 to 512 would need 38 MB of filters, and more of gradients.

    They are made, used and forgotten for 64 channels at a time: forward for output channels,
    backward for input channels, so that each product is finished at once.
    """

    def begin_forward(self) -> None:
        """Only the input: see `_some_filters` for the others."""
        self.padded = padded_input(self.x, 1)

    def _begin_products(self, threads: int) -> None:
        """Nothing: the gradient of the weights needs no sum over transformed filters."""

    def _some_filters(self, matrix: np.ndarray, taps: np.ndarray, ws: Workspace) -> np.ndarray:
        """The filters (36, c, k), transformed with `matrix`, of some taps (9, c, k)."""
        some = ws.get("taps", taps.shape)
        np.copyto(some, taps)
        filters = ws.get("U", (36, *taps.shape[1:]))
        transform(matrix, some, filters)
        return filters

    def _multiply(self, v: np.ndarray, m: np.ndarray, ws: Workspace) -> None:
        for first in range(0, self.k, _FILTER_CHANNELS):
            out = slice(first, first + _FILTER_CHANNELS)
            filters = self._some_filters(self.transform, self.taps[:, :, out], ws)
            multiply(v, filters, m[:, :, out])

    def _multiply_back(self, v, m, ws: Workspace, thread: int) -> None:
        for first in range(0, self.c, _FILTER_CHANNELS):
            part = slice(first, first + _FILTER_CHANNELS)
            shape = self.taps[:, part].shape
            grad_filters = ws.get("U", (36, *shape[1:]))
            multiply_turned(v[:, :, part], m, grad_filters, ws)
            share = ws.get("taps", shape)
            transform(self.adjoint, grad_filters, share)
            total = self.partial[thread][:, part]
            if not self.begun[thread]:
                np.copyto(total, share)
            else:
                np.add(total, share, out=total)
            if self.grad_x is not None:
                turned = self.taps[:, part].transpose(0, 2, 1)
                multiply(m, self._some_filters(self.turned_transform, turned, ws), v[:, :, part])

    def finish_thread(self, ws: Workspace, thread: int) -> None:
        """Nothing is left to do: the sum over this thread's images is the gradient."""


def use_again(conv, source) -> None:
    """Let a convolution take its transformed filters from a `folding.Folded` that is kept."""
    if conv is not None and source.is_kept:
        conv.source = source


def sum_partials(partials: list[np.ndarray], shape: tuple[int, ...]) -> Array:
    """The sum of the threads' shares, in the order of the threads, as (K, C, kh, kw)."""
    total = partials[0]
    for part in partials[1:]:
        np.add(total, part, out=total)
    return total.reshape(shape).transpose(3, 2, 0, 1)


def chunks(conv, thread: int, backward: bool = False) -> Iterator[tuple[slice, int, int]]:
    """A thread's share of a convolution in pieces that fit the cache: images, first row, rows."""
    first, last, share = conv.shares[thread]
    for images in conv.blocks(share, backward):
        for row in range(first, last, conv.rows):
            yield images, row, min(conv.rows, last - row)
