"""Filters with batch norm inside, which are kept from one evaluation to the next."""

from __future__ import annotations

import numpy as np
import pytest

from minires import devices
from minires import functional as F
from minires.backend import reference_only
from minires.kernels.cpu import folding

NAMES = ("weight", "gamma", "beta", "mean", "variance")


@pytest.fixture(autouse=True)
def nothing_kept():
    devices.select_device("cpu")
    folding._kept.clear()
    yield
    folding._kept.clear()


def draw(k=8, c=8, seed=0):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(k, c, 3, 3)), *rng.normal(size=(3, k)), rng.uniform(0.5, 2.0, k)]
    return [a.astype(np.float32) for a in arrays]


def evaluate(x, arrays, eps=1e-5):
    weight, gamma, beta, mean, variance = arrays
    more = {"padding": 1, "training": False, "eps": eps}
    return F.conv_bn_relu_forward(x, weight, gamma, beta, mean, variance, **more)[0]


def evaluate_block(x, arrays, eps=1e-5):
    weight, gamma, beta, mean, variance = arrays
    unit = F.EvaluationUnit(weight, gamma, beta, mean, variance, 1, 1, True, eps)
    return F.evaluate_units(x, [unit, unit], x)


@pytest.mark.parametrize("run", [evaluate, evaluate_block])
@pytest.mark.parametrize("changed", NAMES)
def test_any_change_of_the_values_is_seen(run, changed, loop_kind):
    x = np.random.default_rng(1).normal(size=(4, 8, 8, 8)).astype(np.float32)
    arrays = draw()
    before = run(x, arrays).copy()
    arrays[NAMES.index(changed)][3] *= 1.5  # in place: the same array with other values
    after = run(x, arrays)
    with reference_only():
        wanted = run(x.astype(np.float64), [a.astype(np.float64) for a in arrays])
    np.testing.assert_allclose(after, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("run", [evaluate, evaluate_block])
def test_another_epsilon_is_seen(run, loop_kind):
    x = np.random.default_rng(1).normal(size=(4, 8, 8, 8)).astype(np.float32)
    arrays = draw()
    assert np.abs(run(x, arrays) - run(x, arrays, 0.5)).max() > 1e-2


@pytest.mark.parametrize("run", [evaluate, evaluate_block])
def test_the_same_bits_with_and_without_what_was_kept(run, loop_kind):
    x = np.random.default_rng(1).normal(size=(4, 8, 8, 8)).astype(np.float32)
    first = run(x, draw())
    assert folding._kept
    arrays = draw()
    run(x, arrays)
    np.testing.assert_array_equal(run(x, arrays), first)


def test_what_was_made_is_used_again():
    arrays = draw()
    made = folding.folded(*arrays, 1e-5)
    taps = np.ascontiguousarray(made.weight.transpose(2, 3, 1, 0)).reshape(9, 8, 8)
    matrix = np.random.default_rng(0).normal(size=(36, 9)).astype(np.float32)
    filters = made.transformed(matrix, taps)
    assert folding.folded(*arrays, 1e-5) is made
    assert made.transformed(matrix, taps) is filters
    np.testing.assert_allclose(filters, np.tensordot(matrix, taps, 1), rtol=1e-5, atol=1e-6)


def test_weights_that_are_not_numbers_are_never_used_again():
    arrays = draw()
    arrays[0][0, 0, 0, 0] = np.nan
    assert folding.folded(*arrays, 1e-5) is not folding.folded(*arrays, 1e-5)


def test_large_filters_are_not_kept():
    folding.folded(*draw(65, 64), 1e-5)
    assert not folding._kept
    folding.folded(*draw(64, 64), 1e-5)
    assert len(folding._kept) == 1


def test_no_more_units_are_kept_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(folding, "_MOST", 3)
    units = [draw(seed=seed) for seed in range(8)]
    for arrays in units:
        folding.folded(*arrays, 1e-5)
        assert len(folding._kept) <= 3
