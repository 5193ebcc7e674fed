"""Counting answers, against explicit loops and frozen values."""

from __future__ import annotations

import numpy as np
import pytest

from minires.analysis.metrics import (
    calibration,
    confusion_matrix,
    softmax,
    top_k_accuracy,
    wilson_interval,
)


@pytest.fixture
def answers():
    generator = np.random.default_rng(5)
    return generator.integers(0, 4, 60), generator.integers(0, 4, 60)


def test_confusion_counts_each_pair(answers):
    labels, given = answers
    expected = np.zeros((5, 5), dtype=int)
    for label, answer in zip(labels, given, strict=True):
        expected[label, answer] += 1
    assert np.array_equal(confusion_matrix(labels, given, 5), expected)
    assert expected[0, 1] != expected[1, 0]  # rows and columns can be told apart


def test_the_best_k_by_sorting():
    generator = np.random.default_rng(1)
    scores, labels = generator.standard_normal((50, 6)), generator.integers(0, 6, 50)
    for k in range(1, 7):
        hits = sum(
            label in sorted(range(6), key=lambda c: -row[c])[:k]
            for row, label in zip(scores, labels, strict=True)
        )
        assert top_k_accuracy(scores, labels, k) == hits / 50
    assert top_k_accuracy(scores, labels, 6) == 1.0


def test_equal_scores_count_for_one_class_only():
    scores = np.zeros((3, 3))
    assert top_k_accuracy(scores, np.array([0, 1, 2]), 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(scores, np.array([0, 1, 2]), 2) == pytest.approx(2 / 3)


def test_calibration_of_an_example_worked_by_hand():
    # Bins of width 0.25. (0.5, 0.75]: 0.6 right, 0.7 wrong: 1/2 against 0.65.
    # (0.75, 1]: 0.8 right, 0.9 right, 1.0 wrong: 2/3 against 0.9. ECE = (2 * 0.15 + 3 * 7/30) / 5.
    confidence = np.array([0.6, 0.7, 0.8, 0.9, 1.0])
    correct = np.array([True, False, True, True, False])
    result = calibration(confidence, correct, bins=4)
    assert result.counts.tolist() == [0, 0, 2, 3]
    np.testing.assert_allclose(result.confidence, [np.nan, np.nan, 0.65, 0.9])
    np.testing.assert_allclose(result.accuracy, [np.nan, np.nan, 0.5, 2 / 3])
    assert result.ece == pytest.approx(0.2)


def test_an_edge_belongs_to_the_bin_below_and_zero_to_the_first():
    result = calibration(np.array([0.0, 0.5, 1.0]), np.array([False, True, True]), bins=2)
    assert result.counts.tolist() == [2, 1]


def test_calibration_in_one_bin_is_the_gap_of_the_means():
    generator = np.random.default_rng(2)
    confidence, correct = generator.uniform(0, 1, 200), generator.uniform(0, 1, 200) < 0.4
    gap = abs(confidence.mean() - correct.mean())
    assert calibration(confidence, correct, bins=1).ece == pytest.approx(gap)
    assert calibration(confidence, correct, bins=15).ece >= gap  # parts cannot cancel out


def test_softmax_of_large_logits():
    logits = np.array([[1000.0, 1000.0 + np.log(3.0)], [0.0, -2000.0]], dtype=np.float32)
    np.testing.assert_allclose(softmax(logits), [[0.25, 0.75], [1.0, 0.0]], rtol=1e-4)


def test_wilson_interval_solves_its_equation():
    # The ends are the shares p that lie z standard errors from what was seen:
    # (hits / n - p)^2 = z^2 p (1 - p) / n.
    hits, n = np.array([8, 10, 0, 813]), np.array([10, 10, 10, 1000])
    low, high = wilson_interval(hits, n)
    for end in (low, high):
        np.testing.assert_allclose((hits / n - end) ** 2, 1.96**2 * end * (1 - end) / n, atol=1e-12)
    assert (low < hits / n + 1e-12).all() and (high > hits / n - 1e-12).all() and (low < high).all()


def test_wilson_interval_of_nothing_is_everything():
    low, high = wilson_interval(np.array([0]), np.array([0]))
    assert (low[0], high[0]) == (0.0, 1.0)
