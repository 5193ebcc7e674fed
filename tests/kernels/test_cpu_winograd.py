"""Winograd's transforms, tile by tile, against the formulas."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from minires.kernels.cpu import winograd
from minires.kernels.cpu.buffers import Workspace
from minires.kernels.cpu.regions import Region

H, W, LENGTH = 8, 12, 7
LO, HI = 2, 7
TILES = W // 4


@pytest.fixture(params=[3, 100], ids=["in pieces", "in one piece"])
def ws(request, monkeypatch):
    monkeypatch.setattr(winograd, "PIECE", request.param)
    return Workspace()


def _random(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def _tiles(planes, tile_rows):
    """Planes as (6, 6, tile_rows, TILES, values)."""
    size = tile_rows * TILES * (HI - LO)
    return planes[:, :size].reshape(6, 6, tile_rows, TILES, HI - LO)


def _both(matrix, tile):
    """matrix @ tile @ matrix^T for a tile (rows, columns, values)."""
    return np.einsum("ai,bj,ijv->abv", matrix, matrix, tile)


def _planes(tile_rows):
    return _random(36, tile_rows * TILES * (HI - LO) + 3)


CHUNKS = [(0, 2), (0, 1), (4, 1)]


@pytest.mark.parametrize("row, tile_rows", CHUNKS)
def test_input_transform(row, tile_rows, ws):
    x, planes = _random(H + 2, W + 2, LENGTH), _planes(tile_rows)
    winograd.input_transform(x, row, tile_rows, LO, HI, planes, ws)
    for r, t in np.ndindex(tile_rows, TILES):
        window = x[row + 4 * r : row + 4 * r + 6, 4 * t : 4 * t + 6, LO:HI]
        expected = _both(winograd.INPUT, window)
        assert np.allclose(_tiles(planes, tile_rows)[:, :, r, t], expected, atol=1e-4)


@pytest.mark.parametrize("row, tile_rows", CHUNKS)
def test_output_transform(row, tile_rows, ws):
    y, planes = np.zeros((H, W, LENGTH), np.float32), _planes(tile_rows)
    winograd.output_transform(planes, y, row, tile_rows, LO, HI, ws)
    expected = np.zeros_like(y)
    for r, t in np.ndindex(tile_rows, TILES):
        tile = _both(winograd.OUTPUT, _tiles(planes, tile_rows)[:, :, r, t])
        expected[row + 4 * r : row + 4 * r + 4, 4 * t : 4 * t + 4, LO:HI] = tile
    assert np.allclose(y, expected, atol=1e-4)


@pytest.mark.parametrize("row, tile_rows", CHUNKS)
def test_output_adjoint(row, tile_rows, ws):
    inside, planes = _random(H + 1, W + 3, LENGTH), _planes(tile_rows)
    grad = Region(inside, 1 + row, 2, LO)
    winograd.output_adjoint(grad, tile_rows, W, HI - LO, planes, ws)
    for r, t in np.ndindex(tile_rows, TILES):
        tile = inside[1:, 2:][row + 4 * r : row + 4 * r + 4, 4 * t : 4 * t + 4, LO:HI]
        expected = _both(winograd.OUTPUT.T, tile)
        assert np.allclose(_tiles(planes, tile_rows)[:, :, r, t], expected, atol=1e-4)


def test_the_matrices_make_a_convolution():
    window, weight = _random(6, 6, 1), _random(3, 3)
    filters = (winograd.FILTER_TRANSFORM @ weight.reshape(9)).reshape(6, 6, 1)
    y = _both(winograd.OUTPUT, filters * _both(winograd.INPUT, window))[:, :, 0]
    for p, q in np.ndindex(4, 4):
        assert y[p, q] == pytest.approx((window[p : p + 3, q : q + 3, 0] * weight).sum(), abs=1e-4)


def test_windows_of_the_gradient_make_both_gradients():
    """With pixels x of one tile, and a window g of grad_output that is one pixel larger all around:
    each g[p + 1] is the gradient of an output that reads x[p - 1 + a] through the tap w[a]."""
    x, g, w = _random(4, 4), _random(6, 6), _random(3, 3)
    tile = _both(winograd.OUTPUT.T, x[:, :, None])
    window = _both(winograd.INPUT, g[:, :, None])
    turned = (winograd.TURNED_TRANSFORM @ w.reshape(9)).reshape(6, 6, 1)
    grad_x = _both(winograd.OUTPUT, turned * window)[:, :, 0]
    grad_w = (winograd.TURNED_ADJOINT @ (tile * window).reshape(36)).reshape(3, 3)
    expected_x, expected_w = np.zeros((4, 4)), np.zeros((3, 3))
    for (p, q), (a, b), (i, j) in product(np.ndindex(6, 6), np.ndindex(3, 3), np.ndindex(4, 4)):
        if (i, j) == (p + a - 2, q + b - 2):
            expected_x[i, j] += g[p, q] * w[a, b]
            expected_w[a, b] += g[p, q] * x[i, j]
    np.testing.assert_allclose(grad_x, expected_x, atol=1e-4)
    np.testing.assert_allclose(grad_w, expected_w, atol=1e-4)
