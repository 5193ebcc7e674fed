from __future__ import annotations

import math

import numpy as np
import pytest

from minires.functional import cross_entropy_backward, cross_entropy_forward
from minires.functional.loss import count_batch


def by_hand(logits, labels, smoothing):
    """The mean of -sum t log p with Python floats."""
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        k, norm = len(row), sum(math.exp(z) for z in row)
        for index, z in enumerate(row):
            target = smoothing / k + (1 - smoothing if index == label else 0)
            total -= target * math.log(math.exp(z) / norm)
    return total / len(labels)


def test_equal_logits_cost_the_logarithm_of_the_classes():
    loss, _ = cross_entropy_forward(np.zeros((4, 10)), np.array([0, 3, 9, 9]))
    assert loss.shape == ()
    np.testing.assert_allclose(loss, math.log(10))


def test_frozen_values():
    # p = (1/4, 3/4) and (1/2, 1/2): the loss is (log 4 + log 2) / 2
    logits = np.array([[0.0, math.log(3)], [1.0, 1.0]])
    loss, cache = cross_entropy_forward(logits, np.array([0, 1]))
    np.testing.assert_allclose(loss, math.log(8) / 2)
    grad = cross_entropy_backward(cache)
    np.testing.assert_allclose(grad, [[-0.375, 0.375], [0.25, -0.25]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("n, k", [(1, 2), (5, 10)])
def test_equals_the_definition(n, k, smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(n, k)), rng.integers(0, k, n)
    loss, _ = cross_entropy_forward(logits, labels, smoothing)
    np.testing.assert_allclose(loss, by_hand(logits, labels, smoothing), rtol=1e-13)


def test_the_gradient_of_each_image_sums_to_zero():
    rng = np.random.default_rng(1)
    _, cache = cross_entropy_forward(rng.normal(size=(6, 4)), rng.integers(0, 4, 6), 0.2)
    np.testing.assert_allclose(cross_entropy_backward(cache).sum(axis=1), 0, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_large_logits_do_not_overflow(dtype):
    logits = np.array([[60000.0, -60000.0], [0.0, 60000.0]], dtype)
    loss, cache = cross_entropy_forward(logits, np.array([0, 1]))
    assert loss == 0
    np.testing.assert_array_equal(cross_entropy_backward(cache), np.zeros((2, 2)))
    loss, cache = cross_entropy_forward(logits, np.array([1, 0]))
    np.testing.assert_allclose(loss, 90000)
    grad = cross_entropy_backward(cache)
    np.testing.assert_allclose(grad, [[0.5, -0.5], [-0.5, 0.5]])
    assert grad.dtype == dtype


@pytest.mark.parametrize("soft", [False, True])
def test_a_batch_adds_its_losses_and_its_right_answers_to_the_totals(soft):
    logits = np.array([[3.0, 1, 2], [0, 5, 1], [1, 2, 3], [4, 1, 0]], np.float32)  # say 0, 1, 2, 0
    labels = np.array([0, 1, 1, 2])  # two right
    if soft:  # the class with the largest share counts
        labels = np.array([[0.6, 0.4, 0], [0.3, 0.5, 0.2], [0, 0.9, 0.1], [0.1, 0, 0.9]])
    totals = np.array([10.0, 7.0])
    count_batch(logits, labels, np.array(0.25, np.float32), totals)
    np.testing.assert_array_equal(totals, [10 + 4 * 0.25, 7 + 2])
