"""Convolution by columns: im2col and one cuBLAS product, the first rung and the oracle of the next.

It takes every type and every shape; float32 always comes here. The images are taken in groups, so
that the column matrix stays below `COLUMN_BYTES`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minires.backend import Array
from minires.functional.conv import conv_output_size
from minires.kernels.cuda.arrays import THREADS, blocks_for, cuda_type
from minires.kernels.cuda.runtime import empty, launch, product
from minires.kernels.cuda.weights import forward_matrix

COLUMN_BYTES = 1 << 29


class Columns:
    """The geometry of one convolution: x (N, H, W, C), weight (K, C, R, S)."""

    def __init__(self, x_shape: tuple[int, ...], weight: Array, stride: int, padding: int) -> None:
        self.n, self.h, self.w, self.c = x_shape
        self.k, _, self.r, self.s = weight.shape
        self.stride, self.padding = stride, padding
        self.p = conv_output_size(self.h, self.r, stride, padding)
        self.q = conv_output_size(self.w, self.s, stride, padding)
        self.depth = self.r * self.s * self.c
        self.plain = (self.r, self.s, stride, padding) == (1, 1, 1, 0)

    def forward(self, x: Array, weight: Array, moments: bool = False) -> tuple[Array, None]:
        """y (N, P, Q, K) of x (N, H, W, C); its moments are left to batch norm."""
        matrix = self._matrix(weight, x.dtype)
        y = empty((self.n, self.p, self.q, self.k), x.dtype)
        for part in self._groups(x.dtype.itemsize):
            columns = self._columns(x[part])
            product(columns, matrix, y[part].reshape(-1, self.k), b_t=True)
        return y, None

    def input_gradient(self, grad: Array, weight: Array) -> Array:
        """grad_x (N, H, W, C) of grad (N, P, Q, K)."""
        matrix = self._matrix(weight, grad.dtype)
        grad_x = empty((self.n, self.h, self.w, self.c), grad.dtype)
        for part in self._groups(grad.dtype.itemsize):
            rows = grad[part].reshape(-1, self.k)
            if self.plain:
                product(rows, matrix, grad_x[part].reshape(-1, self.c))
                continue
            columns = empty((rows.shape[0], self.depth), grad.dtype)
            product(rows, matrix, columns)
            self._launch("col2im", columns, grad_x[part], grad_x[part].size)
        return grad_x

    def weight_gradient(self, x: Array, grad: Array) -> Array:
        """grad_weight (K, C, R, S) float32 of x (N, H, W, C) and grad (N, P, Q, K)."""
        total = empty((self.k, self.depth), np.float32)
        for number, part in enumerate(self._groups(x.dtype.itemsize)):
            rows = grad[part].reshape(-1, self.k)
            product(rows, self._columns(x[part]), total, a_t=True, add=number > 0)
        return total.reshape(self.k, self.r, self.s, self.c).transpose(0, 3, 1, 2)

    def _matrix(self, weight: Array, dtype: np.dtype) -> Array:
        """weight (K, C, R, S) as (K, R S C)."""
        return forward_matrix(weight, dtype).reshape(self.k, self.depth)

    def _groups(self, itemsize: int) -> Iterator[slice]:
        size = max(1, COLUMN_BYTES // (self.p * self.q * self.depth * itemsize))
        for start in range(0, self.n, size):
            yield slice(start, min(start + size, self.n))

    def _columns(self, x: Array) -> Array:
        """The windows of some images as rows (images P Q, R S C)."""
        if self.plain:
            return x.reshape(-1, self.c)
        columns = empty((x.shape[0] * self.p * self.q, self.depth), x.dtype)
        self._launch("im2col", x, columns, columns.size)
        return columns

    def _launch(self, name: str, source: Array, target: Array, items: int) -> None:
        images = source.shape[0] if name == "im2col" else target.shape[0]
        launch("columns", f"{name}<{cuda_type(source)}>", blocks_for(items), (THREADS,), source,
               target, images, self.h, self.w, self.c, self.r, self.s, self.p, self.q,
               self.stride, self.padding)
