"""Holding out images, and the normalisation of what is left."""

from __future__ import annotations

import numpy as np
import pytest

from minires.data import Normalization, compute_normalization, load_dataset, split_validation
from minires.errors import DataError, UsageError
from minires.functional.random import SPLIT, random_bits

LABELS = np.arange(50_000) * 7 % 10


@pytest.mark.parametrize("val_split", [5_000, 0.1])
def test_the_usual_split_is_balanced(val_split):
    train, val = split_validation(LABELS, val_split, seed=0)
    assert (len(train), len(val)) == (45_000, 5_000)
    assert np.bincount(LABELS[val]).tolist() == [500] * 10
    np.testing.assert_array_equal(np.sort(np.concatenate([train, val])), np.arange(50_000))
    assert (np.diff(train) > 0).all() and (np.diff(val) > 0).all()


def test_it_is_the_seed_that_chooses():
    first = split_validation(LABELS, 5_000, seed=0)[1]
    np.testing.assert_array_equal(split_validation(LABELS, 5_000, seed=0)[1], first)
    other = split_validation(LABELS, 5_000, seed=1)[1]
    common = len(np.intersect1d(first, other))
    assert 350 < common < 650, "two independent tenths share about a hundredth of 50,000"


def test_of_each_class_the_images_with_the_smallest_draws_of_the_stream_are_held_out():
    labels = np.arange(40) % 2
    draws = {index: int(random_bits(7, SPLIT, index)) for index in range(40)}
    expected = []
    for label in (0, 1):
        members = [index for index in range(40) if labels[index] == label]
        expected += sorted(members, key=draws.get)[:5]
    assert split_validation(labels, 10, seed=7)[1].tolist() == sorted(expected)


def test_classes_of_different_sizes_give_their_share_and_the_total_is_exact():
    labels = np.repeat([0, 1, 2], [10, 25, 65])
    for count in range(1, 100):
        val = split_validation(labels, count, seed=3)[1]
        assert len(val) == count
        shares = np.bincount(labels[val], minlength=3)
        assert np.abs(shares - count * np.array([0.10, 0.25, 0.65])).max() < 1


def test_nothing_held_out():
    train, val = split_validation(LABELS, 0, seed=0)
    assert len(val) == 0 and len(train) == 50_000


@pytest.mark.parametrize(
    "val_split", [-1, -0.1, 50_000, 60_000, 1.5, 10.5, float("nan"), float("inf")]
)
def test_impossible_splits(val_split):
    with pytest.raises(UsageError, match="--val-split"):
        split_validation(LABELS, val_split, seed=0)


def test_normalization_is_mean_and_standard_deviation():
    images = np.random.default_rng(0).integers(0, 200, (1_500, 3, 5, 4), dtype=np.uint8)
    images[:, 1] //= 2
    result = compute_normalization(images)
    values = images.astype(np.float64) / 255
    np.testing.assert_allclose(result.mean, values.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(result.std, values.std(axis=(0, 2, 3)), rtol=1e-12)
    assert compute_normalization(images[::-1]) == result
    assert all(type(value) is float for value in (*result.mean, *result.std))


def test_normalization_of_a_constant_channel_is_refused():
    with pytest.raises(DataError, match="same value"):
        compute_normalization(np.full((2, 3, 4, 4), 7, dtype=np.uint8))


def test_normalization_of_the_real_training_set(real_data):
    """The constants that are known for CIFAR-10."""
    result = compute_normalization(load_dataset("cifar10", "train", real_data).images)
    expected = Normalization((0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159))
    np.testing.assert_allclose(result.mean, expected.mean, atol=1e-5)
    np.testing.assert_allclose(result.std, expected.std, atol=1e-5)
