"""Matrix products cut into the sizes that BLAS is fastest at, against einsum in float64."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

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


def planes(rng, positions, rows, channels):
    """Planes with values behind the last row that no product may read or write, and as matrices."""
    memory = rng.standard_normal((positions, rows * channels + 9)).astype(np.float32)
    return memory, memory[:, : rows * channels].reshape(positions, rows, channels)


@pytest.fixture(scope="module", params=["+avx512f", "+avx", "none"])
def own(request):
    """Our own products, compiled anew with the blocks of one kind of processor."""
    numba = pytest.importorskip("numba")
    from minires.kernels.cpu import compiled_product as module

    shapes = module._shapes([request.param])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_shapes", lambda features: shapes)
        names = ("multiply", "multiply_back", "add_products")
        functions = {name: numba.njit(getattr(module, name).py_func) for name in names}
        yield SimpleNamespace(**functions)


TARGETS = np.array([2, 0, 1, 1, 2])  # five products, three positions of the output


# Where 256 channels or more are a multiple of 64, 24 rows or more have their right factor copied.
@pytest.mark.parametrize("rows", [0, 1, 5, 23, 25])
@pytest.mark.parametrize("channels", [(3, 16), (16, 7), (5, 121), (3, 320), (256, 25)], ids=str)
def test_our_own_products_agree_with_einsum(own, rows, channels):
    rng, (c, k) = np.random.default_rng(0), channels
    v_memory, v = planes(rng, 5, rows, c)
    m_memory, m = planes(rng, 3, rows, k)
    behind = v_memory[:, rows * c :].copy(), m_memory[:, rows * k :].copy()
    filters = rng.standard_normal((5, c, k)).astype(np.float32)
    turned = np.ascontiguousarray(filters.transpose(0, 2, 1))

    own.multiply(v_memory, filters, m_memory, TARGETS, rows)
    expected = np.zeros((3, rows, k))
    for p, target in enumerate(TARGETS):
        expected[target] += v[p].astype(np.float64) @ filters[p]
    np.testing.assert_allclose(m, expected, rtol=1e-4, atol=1e-4)

    total = rng.standard_normal((5, c, k)).astype(np.float32)
    added = total + np.einsum("prc,prk->pck", v.astype(np.float64), m[TARGETS])
    own.add_products(v_memory, m_memory, TARGETS, rows, total, False)
    np.testing.assert_allclose(total, added, rtol=1e-4, atol=1e-4)
    own.add_products(v_memory, m_memory, TARGETS, rows, total, True)
    fresh = np.einsum("prc,prk->pck", v.astype(np.float64), m[TARGETS])
    np.testing.assert_allclose(total, fresh, rtol=1e-4, atol=1e-4)

    own.multiply_back(m_memory, turned, v_memory, TARGETS, rows)
    back = np.einsum("prk,pck->prc", m[TARGETS].astype(np.float64), filters)
    np.testing.assert_allclose(v, back, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(v_memory[:, rows * c :], behind[0])
    np.testing.assert_array_equal(m_memory[:, rows * k :], behind[1])


def test_our_own_products_refuse_arrays_that_are_not_float32_in_one_piece(own):
    errors = pytest.importorskip("numba.core.errors")
    v, m = np.zeros((2, 2, 30), np.float32)
    filters, targets = np.zeros((2, 3, 5), np.float32), np.arange(2)
    for wrong in (filters.transpose(0, 2, 1), filters.astype(np.float64)):
        with pytest.raises(errors.TypingError, match="float32 arrays in one piece"):
            own.multiply(v, wrong, m, targets, 6)


def test_code_on_disk_is_kept_apart_by_its_sources_wherever_it_lies(tmp_path, monkeypatch):
    pytest.importorskip("numba")
    from minires.kernels.cpu import compiled

    usual = compiled._source_cache()
    monkeypatch.setattr(compiled.config, "CACHE_DIR", str(tmp_path))  # as NUMBA_CACHE_DIR sets it
    before = compiled._source_cache()
    assert before == str(tmp_path / Path(usual).name)
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"other sources")
    assert compiled._source_cache() not in (before, usual)
