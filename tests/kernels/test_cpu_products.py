"""Matrix products cut into the sizes that BLAS is fastest at, against einsum in float64."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minires.kernels.cpu import products
from minires.kernels.cpu.buffers import Workspace
from minires.kernels.cpu.threads import groups


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of at most 60 multiplications, as where BLAS multiplies small matrices in place."""
    monkeypatch.setattr(products, "has_small_products", lambda: True)
    monkeypatch.setattr(products, "_SMALL", 60)
    monkeypatch.setattr(products, "_FEWEST", 2)
    monkeypatch.setattr(products, "_WIDTH", 3)
    monkeypatch.setattr(products, "_SUM_HEIGHT", 2)
    monkeypatch.setattr(products, "_SUM_WIDTHS", (6, 3))
    monkeypatch.setattr(products, "_FEWEST_SUMMED", 4)


@pytest.fixture
def sizes(monkeypatch):
    """The multiplications of each matrix product that BLAS is asked for."""
    found, matmul = [], np.matmul

    def count(a, b, out):
        found.append(a.shape[-2] * a.shape[-1] * b.shape[-1])
        return matmul(a, b, out=out)

    monkeypatch.setattr(products.np, "matmul", count)
    return found


def guarded(rows, columns):
    """An array (4, rows * columns + 2) of sevens, and the matrices in it."""
    memory = np.full((4, rows * columns + 2), 7, np.float32)
    return memory, memory[:, : rows * columns].reshape(4, rows, columns)


@pytest.mark.parametrize("rows", [1, 3, 4, 8, 23])
@pytest.mark.parametrize("columns", [3, 5, 6, 12])
@pytest.mark.parametrize("some_columns", [False, True])
def test_products_in_pieces(rows, columns, some_columns, small_pieces, sizes):
    rng = np.random.default_rng(rows)
    a = planes(rng, 4, rows, 5)[1]
    b = rng.standard_normal((4, 5, columns)).astype(np.float32)
    memory, target = guarded(rows, columns + 4 if some_columns else columns)
    products.multiply(a, b, target[:, :, :columns])
    assert max(sizes) <= 60 or columns == 5 and rows > 2
    expected = np.einsum("prc,pck->prk", a.astype(np.float64), b)
    np.testing.assert_allclose(target[:, :, :columns], expected, rtol=1e-5, atol=1e-5)
    assert (target[:, :, columns:] == 7).all() and (memory[:, -2:] == 7).all()


def test_products_of_the_fewest_rows_are_in_pieces(small_pieces, sizes):
    a, b = np.ones((4, 6, 10), np.float32), np.ones((4, 10, 3), np.float32)
    products.multiply(a, b, np.empty((4, 6, 3), np.float32))
    assert sizes == [2 * 10 * 3]


@pytest.mark.parametrize("way", ["no small products", "turned", "few rows"])
def test_products_that_are_better_done_at_once(way, small_pieces, sizes, monkeypatch):
    if way == "no small products":
        monkeypatch.setattr(products, "has_small_products", lambda: False)
    rng, inner = np.random.default_rng(0), 50 if way == "few rows" else 5
    a = rng.standard_normal((4, 23, inner)).astype(np.float32)
    b = rng.standard_normal((4, inner, 3)).astype(np.float32)
    if way == "turned":
        b = np.ascontiguousarray(b.swapaxes(1, 2)).swapaxes(1, 2)
    out = np.empty((4, 23, 3), np.float32)
    products.multiply(a, b, out)
    assert sizes == [23 * inner * 3]
    np.testing.assert_allclose(out, np.einsum("prc,pck->prk", a, b), rtol=1e-4, atol=1e-5)


SUMS = [  # rows, channels, and the multiplications of a piece: rows x 2 x 6 or x 3, or all columns
    (4, (4, 6), 4 * 2 * 6),
    (7, (4, 6), 7 * 2 * 3),
    (16, (4, 6), 8 * 2 * 3),  # in two sums
    (40, (4, 6), 10 * 2 * 3),  # in four
    (8, (3, 5), 4 * 3 * 5),
    (7, (3, 5), 7 * 3 * 5),  # seven rows do not make two equal sums
    (1, (5, 3), 1 * 5 * 3),
    (16, (5, 5), 16 * 5 * 5),  # eight sums of two rows each: too few
]


@pytest.mark.parametrize("rows, channels, piece", SUMS, ids=str)
@pytest.mark.parametrize("small", [False, True])
def test_sums_of_products_in_pieces(rows, channels, piece, small, small_pieces, sizes, monkeypatch):
    monkeypatch.setattr(products, "has_small_products", lambda: small)
    rng, (c, k) = np.random.default_rng(0), channels
    a = rng.standard_normal((4, rows, c + 2)).astype(np.float32)[:, :, 1:-1]  # some channels
    b = planes(rng, 4, rows, k)[1]
    memory, out = guarded(c, k)
    products.multiply_turned(a, b, out, Workspace())
    assert sizes == [piece if small else rows * c * k]
    expected = np.einsum("prc,prk->pck", a.astype(np.float64), b)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    assert (memory[:, -2:] == 7).all()


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
