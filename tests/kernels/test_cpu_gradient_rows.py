"""Chunks of the output's gradient with their border, against slices of the whole gradient."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from minires.kernels.cpu.buffers import Workspace
from minires.kernels.cpu.gradient_rows import GradientRows

H, W, N, K = 12, 5, 4, 3


@pytest.fixture
def gradient():
    return np.random.default_rng(0).standard_normal((H, W, N * K)).astype(np.float32)


@pytest.fixture
def made():
    """The rows that were made: (first image, first row, number of rows)."""
    return []


@pytest.fixture
def rows_of(gradient, made):
    """Makes a `GradientRows` with a border of 0 or 1, in memory that is not zero before."""

    def make(images, row, rows, target):
        made.append((images.start, row, rows))
        at = slice(target.row, target.row + rows), slice(target.column, target.column + W)
        values = gradient[row : row + rows, :, images.start * K : images.stop * K]
        target.array[at] = values

    def rows_of(border):
        ws = Workspace()
        ws.get("chunk", (H + 2, W + 2, N * K))[...] = np.nan
        conv = SimpleNamespace(border=border, output_size=(H, W), k=K)
        return GradientRows(conv, make, ws)

    return rows_of


def expected(gradient, border, images, row, rows):
    """The chunk, cut from the gradient in a border of zeros."""
    values = gradient[:, :, images.start * K : images.stop * K]
    padded = np.pad(values, [(border, border), (border, border), (0, 0)])
    return padded[row : row + rows + 2 * border]


ORDERS = {
    "from top to bottom": [(0, 4), (4, 4), (8, 4)],
    "of two sizes": [(0, 8), (8, 4)],
    "at once": [(0, 12)],
    "from the middle": [(4, 4), (8, 4)],
    "from bottom to top": [(8, 4), (4, 4), (0, 4)],
}


@pytest.mark.parametrize("border", [0, 1])
@pytest.mark.parametrize("order", ORDERS)
def test_chunks_have_the_rows_around_them(border, order, rows_of, gradient):
    grads = rows_of(border)
    for images in (slice(0, 2), slice(2, 3), slice(3, 4)):
        for row, rows in ORDERS[order]:
            chunk = grads.take(images, row, rows)
            np.testing.assert_array_equal(chunk, expected(gradient, border, images, row, rows))


def test_the_images_that_follow_do_not_take_rows_of_the_last_ones(rows_of, gradient):
    grads = rows_of(1)
    grads.take(slice(0, 2), 0, 4)
    images = slice(2, 4)
    chunk = grads.take(images, 4, 4)
    np.testing.assert_array_equal(chunk, expected(gradient, 1, images, 4, 4))


def test_no_row_is_made_twice_on_the_way_down(rows_of, made):
    grads = rows_of(1)
    for row in (0, 4, 8):
        grads.take(slice(0, 4), row, 4)
    assert made == [(0, 0, 5), (0, 5, 4), (0, 9, 3)]
