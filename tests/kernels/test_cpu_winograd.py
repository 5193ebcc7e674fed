"""Winograd's transforms, tile by tile, against the formulas."""

from __future__ import annotations

import numpy as np
import pytest

from minires.kernels.cpu import winograd
from minires.kernels.cpu.buffers import Workspace

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
    grad, planes = _random(H, W, LENGTH), _planes(tile_rows)
    winograd.output_adjoint(grad, row, tile_rows, LO, HI, planes, ws)
    for r, t in np.ndindex(tile_rows, TILES):
        tile = grad[row + 4 * r : row + 4 * r + 4, 4 * t : 4 * t + 4, LO:HI]
        expected = _both(winograd.OUTPUT.T, tile)
        assert np.allclose(_tiles(planes, tile_rows)[:, :, r, t], expected, atol=1e-4)


@pytest.mark.parametrize("chunks", [CHUNKS[:1], CHUNKS[1:]], ids=["at once", "in two calls"])
def test_input_adjoint_adds_up_overlapping_windows(chunks, ws):
    x, expected = _random(H + 2, W + 2, LENGTH), np.zeros((H + 2, W + 2, LENGTH))
    before = x.copy()
    for row, tile_rows in chunks:
        planes = _planes(tile_rows)
        winograd.input_adjoint(planes, x, row, tile_rows, LO, HI, row == 0, None, ws)
        for r, t in np.ndindex(tile_rows, TILES):
            window = _both(winograd.INPUT.T, _tiles(planes, tile_rows)[:, :, r, t])
            rows = slice(row + 4 * r, row + 4 * r + 6)
            expected[rows, 4 * t : 4 * t + 6, LO:HI] += window
    assert np.allclose(x[:, :, LO:HI], expected[:, :, LO:HI], atol=1e-3)
    assert np.array_equal(x[:, :, :LO], before[:, :, :LO])


def test_input_adjoint_leaves_rows_of_another_thread_alone(ws):
    x, alone = _random(H + 2, W + 2, LENGTH), np.zeros((H + 2, W + 2, LENGTH), np.float32)
    before, planes, below = x.copy(), _planes(1), np.zeros((2, W + 2, HI - LO), np.float32)
    winograd.input_adjoint(planes, alone, 0, 1, LO, HI, True, None, ws)
    winograd.input_adjoint(planes, x, 0, 1, LO, HI, True, below, ws)
    assert np.array_equal(x[:4, :, LO:HI], alone[:4, :, LO:HI])
    assert np.array_equal(below, alone[4:6, :, LO:HI])
    assert np.array_equal(x[4:], before[4:])


def test_the_matrices_make_a_convolution():
    window, weight = _random(6, 6, 1), _random(3, 3)
    filters = (winograd.FILTER_TRANSFORM @ weight.reshape(9)).reshape(6, 6, 1)
    y = _both(winograd.OUTPUT, filters * _both(winograd.INPUT, window))[:, :, 0]
    for p, q in np.ndindex(4, 4):
        assert y[p, q] == pytest.approx((window[p : p + 3, q : q + 3, 0] * weight).sum(), abs=1e-4)
