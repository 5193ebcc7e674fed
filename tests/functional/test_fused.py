from __future__ import annotations

import weakref

import numpy as np
import pytest

from minires.functional import (
    EvaluationUnit,
    conv_bn_relu_backward,
    conv_bn_relu_forward,
    evaluate_units,
    fused,
)


def parts_by_hand(x, weight, gamma, beta, mean, variance, shortcut, relu):
    """A 1x1 convolution, so that it is one product; statistics given or taken from the batch."""
    y = np.einsum("nchw,kc->nkhw", x, weight[:, :, 0, 0])
    if mean is None:
        mean, variance = y.mean(axis=(0, 2, 3)), y.var(axis=(0, 2, 3))
    y = (y - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
    y = y * gamma[:, None, None] + beta[:, None, None]
    if shortcut is not None:
        y = y + shortcut
    return np.where(y > 0, y, 0) if relu else y


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("joined", [True, False])
def test_forward_is_the_parts_in_turn(training, relu, joined):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 1, 1))
    gamma, beta = rng.normal(size=2), rng.normal(size=2)
    mean, variance = rng.normal(size=2), rng.uniform(0.5, 2, size=2)
    shortcut = rng.normal(size=(2, 2, 4, 5)) if joined else None
    statistics = (None, None) if training else (mean.copy(), variance.copy())
    expected = parts_by_hand(x, weight, gamma, beta, *statistics, shortcut, relu)
    y, _ = conv_bn_relu_forward(
        x, weight, gamma, beta, mean, variance, shortcut, relu=relu, training=training
    )
    np.testing.assert_allclose(y, expected, atol=1e-12)


def test_the_shortcut_gets_the_gradient_behind_the_relu():
    rng = np.random.default_rng(1)
    shortcut = rng.normal(size=(2, 2, 3, 3))
    y, cache = conv_bn_relu_forward(
        rng.normal(size=(2, 3, 3, 3)),
        rng.normal(size=(2, 3, 3, 3)),
        *(np.ones(2), np.zeros(2), np.zeros(2), np.ones(2), shortcut),
        padding=1,
    )
    g = rng.normal(size=y.shape)
    grad_shortcut = conv_bn_relu_backward(g, cache)[4]
    np.testing.assert_array_equal(grad_shortcut, np.where(y > 0, g, 0))


def test_no_shortcut_no_gradient_and_grad_x_on_request():
    rng = np.random.default_rng(2)
    y, cache = conv_bn_relu_forward(
        rng.normal(size=(2, 3, 3, 3)),
        rng.normal(size=(2, 3, 1, 1)),
        *(np.ones(2), np.zeros(2), np.zeros(2), np.ones(2)),
    )
    grad_x, *_, grad_shortcut = conv_bn_relu_backward(np.ones_like(y), cache, need_grad_x=False)
    assert grad_x is None and grad_shortcut is None


def test_without_options_a_unit_trains_with_batch_norm_s_momentum_of_a_tenth():
    rng = np.random.default_rng(3)
    x, weight = rng.normal(2.0, size=(2, 3, 3, 3)), rng.normal(size=(2, 3, 1, 1))
    running_mean, running_var = np.zeros(2), np.zeros(2)
    conv_bn_relu_forward(x, weight, np.ones(2), np.zeros(2), running_mean, running_var)
    y = np.einsum("nchw,kc->nkhw", x, weight[:, :, 0, 0])
    np.testing.assert_allclose(running_mean, 0.1 * y.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(running_var, 0.1 * y.var(axis=(0, 2, 3), ddof=1))


@pytest.mark.parametrize("joined", [True, False])
def test_units_in_evaluation_follow_each_other_and_the_last_adds_the_shortcut(joined):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 3, 4, 5))
    shortcut = rng.normal(size=(2, 2, 4, 5)) if joined else None
    units = [
        EvaluationUnit(
            rng.normal(size=(2, c, 1, 1)),
            *rng.normal(size=(3, 2)),
            rng.uniform(0.5, 2, size=2),
            relu=relu,
        )
        for c, relu in ((3, True), (2, False), (2, True))
    ]
    expected = x
    for unit in units:
        last = shortcut if unit is units[-1] else None
        expected = parts_by_hand(expected, *unit[:5], last, unit.relu)
    np.testing.assert_allclose(evaluate_units(x, units, shortcut), expected, atol=1e-12)


def test_the_shortcut_is_added_once_even_if_one_unit_comes_twice():
    rng = np.random.default_rng(4)
    x, shortcut = rng.normal(size=(2, 2, 2, 3, 3))
    unit = EvaluationUnit(
        rng.normal(size=(2, 2, 1, 1)), *rng.normal(size=(3, 2)), np.ones(2), relu=False
    )
    between = parts_by_hand(x, *unit[:5], None, False)
    expected = parts_by_hand(between, *unit[:5], shortcut, False)
    np.testing.assert_allclose(evaluate_units(x, [unit, unit], shortcut), expected, atol=1e-12)


def test_what_lies_between_two_units_is_given_back_as_soon_as_it_was_read(monkeypatch):
    class Cache:
        """One that can be watched."""

    alive = weakref.WeakSet()

    def forward(x, *arrays, **options):
        assert not alive
        cache = Cache()
        alive.add(cache)
        return x, cache

    monkeypatch.setattr(fused, "conv_bn_relu_forward", forward)
    evaluate_units(np.ones((1, 1, 1, 1)), [EvaluationUnit(*np.ones((5, 1)))] * 3)
