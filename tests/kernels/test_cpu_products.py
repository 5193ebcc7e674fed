"""Matrix products cut into the sizes that BLAS is fastest at, against einsum in float64."""

from __future__ import annotations

import numpy as np
import pytest

from minires.kernels.cpu import products
from minires.kernels.cpu.threads import groups


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("rows", [1, 6, 7, 14, 23])
@pytest.mark.parametrize("turned", [False, True])
def test_products_of_few_rows_at_a_time(small, rows, turned, monkeypatch):
    monkeypatch.setattr(products, "has_small_products", lambda: small)
    monkeypatch.setattr(products, "_SMALL", 7 * 5 * 3)
    monkeypatch.setattr(products, "_FEWEST_ROWS", 7)
    assert products.fast_rows(5, 3) == (7 if small else None)
    rng = np.random.default_rng(rows)
    planes = rng.standard_normal((4, rows * 5 + 9)).astype(np.float32)
    a = planes[:, : rows * 5].reshape(4, rows, 5)
    b = rng.standard_normal((4, 3, 5) if turned else (4, 5, 3)).astype(np.float32)
    b = b.transpose(0, 2, 1) if turned else b
    out = np.full((4, rows * 3 + 2), 7, np.float32)
    products.multiply(a, b, out[:, : rows * 3].reshape(4, rows, 3))
    expected = np.einsum("prc,pck->prk", a.astype(np.float64), b).reshape(4, -1)
    np.testing.assert_allclose(out[:, : rows * 3], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(out[:, rows * 3 :], 7)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("channels", [(2, 3), (7, 4), (2, 7)])
def test_transforms_of_some_values_at_a_time(small, channels, monkeypatch):
    monkeypatch.setattr(products, "has_small_products", lambda: small)
    monkeypatch.setattr(products, "_COLUMNS", 7)
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((5, 3)).astype(np.float32)
    taps = rng.standard_normal((3, *channels)).astype(np.float32)
    out = np.empty((5, *channels), np.float32)
    products.transform(matrix, taps, out)
    expected = np.einsum("pq,qck->pck", matrix.astype(np.float64), taps)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_groups_are_nearly_equal_and_leave_nobody_out():
    assert groups(slice(3, 10), 3) == [slice(3, 5), slice(5, 7), slice(7, 10)]
    assert groups(slice(3, 10), 7) == groups(slice(3, 10), 9) == [slice(3, 10)]
