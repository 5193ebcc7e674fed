"""Gather, crop, flip and normalise: against a loop over images, and the draws themselves."""

from __future__ import annotations

import numpy as np
import pytest

from minires.functional.augmentation import augment_batch, draw_augmentation, normalization_table

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
TABLE = normalization_table(MEAN, STD)


def one_image(image, down, right, flip, padding) -> np.ndarray:
    """The definition, for one image: pad with the mean, cut, mirror, normalise in float64."""
    height, width = image.shape[1:]
    edge = (padding, padding)
    padded = np.stack(
        [
            np.pad(channel, (edge, edge), constant_values=round(255 * mean))
            for channel, mean in zip(image, MEAN, strict=True)
        ]
    )
    window = padded[:, down : down + height, right : right + width]
    if flip:
        window = np.flip(window, axis=2)
    mean, std = np.array(MEAN)[:, None, None], np.array(STD)[:, None, None]
    return (window / 255 - mean) / std


@pytest.mark.parametrize("shape", [(32, 32), (5, 7), (1, 1)])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_against_a_loop_over_images(shape, padding):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (20, 3, *shape), dtype=np.uint8)
    before = images.copy()
    indices = generator.integers(0, 20, 30)
    offsets = generator.integers(0, 2 * padding + 1, (30, 2))
    flips = generator.integers(0, 2, 30).astype(bool)
    x = augment_batch(images, indices, TABLE, offsets, flips, padding)
    assert x.dtype == np.float32 and x.shape == (30, 3, *shape)
    for b, index in enumerate(indices):
        expected = one_image(images[index], *offsets[b], flips[b], padding)
        np.testing.assert_allclose(x[b], expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(images, before)


def test_padding_is_zero_after_normalisation_within_half_a_step():
    images = np.zeros((1, 3, 4, 4), dtype=np.uint8)
    x = augment_batch(images, np.array([0]), TABLE, np.array([[0, 0]]), padding=4)
    assert (np.abs(x).max(axis=(0, 2, 3)) <= 0.5 / 255 / np.array(STD)).all()


def test_without_augmentation_the_images_are_normalised_alone():
    images = np.random.default_rng(1).integers(0, 256, (6, 3, 4, 4), dtype=np.uint8)
    x = augment_batch(images, np.array([5, 0]), TABLE)
    for b, index in enumerate([5, 0]):
        np.testing.assert_allclose(x[b], one_image(images[index], 0, 0, False, 0), rtol=1e-6)


def test_each_part_alone():
    images = np.random.default_rng(2).integers(0, 256, (2, 3, 6, 6), dtype=np.uint8)
    indices = np.array([1, 0])
    flipped = augment_batch(images, indices, TABLE, flips=np.array([True, False]))
    np.testing.assert_allclose(flipped[0], one_image(images[1], 0, 0, True, 0), rtol=1e-6)
    np.testing.assert_allclose(flipped[1], one_image(images[0], 0, 0, False, 0), rtol=1e-6)
    offsets = np.array([[0, 4], [3, 1]])
    cropped = augment_batch(images, indices, TABLE, offsets, padding=2)
    np.testing.assert_allclose(cropped[0], one_image(images[1], 0, 4, False, 2), rtol=1e-6)
    np.testing.assert_allclose(cropped[1], one_image(images[0], 3, 1, False, 2), rtol=1e-6)


def test_the_middle_window_is_the_image():
    images = np.random.default_rng(3).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    x = augment_batch(images, np.arange(3), TABLE, np.full((3, 2), 4), np.zeros(3, bool), 4)
    np.testing.assert_array_equal(x, augment_batch(images, np.arange(3), TABLE))


def test_draws_are_even_and_independent():
    offsets, flips = draw_augmentation(0, 0, np.arange(81_000), 4, flip=True)
    assert offsets.shape == (81_000, 2) and flips.dtype == bool
    pairs = np.bincount(offsets[:, 0] * 9 + offsets[:, 1], minlength=81)
    assert len(pairs) == 81
    assert abs(pairs - 1_000).max() < 150, "about five standard deviations"
    assert abs(flips.mean() - 0.5) < 0.01
    assert abs(flips[offsets[:, 0] == 0].mean() - 0.5) < 0.03


def test_draws_depend_on_seed_epoch_and_image_alone():
    indices = np.arange(1_000)
    offsets, flips = draw_augmentation(5, 7, indices, 4, flip=True)
    order = np.random.default_rng(0).permutation(1_000)
    again = draw_augmentation(5, 7, indices[order], 4, flip=True)
    np.testing.assert_array_equal(again[0], offsets[order])
    np.testing.assert_array_equal(again[1], flips[order])
    for seed, epoch in ((6, 7), (5, 8)):
        other = draw_augmentation(seed, epoch, indices, 4, flip=True)
        assert (other[0] == offsets).all(axis=1).mean() < 0.05
    assert not draw_augmentation(5, 7, indices, 4, flip=False)[1].any()
    assert not draw_augmentation(5, 7, indices, 0, flip=True)[0].any()


def test_draws_are_frozen():
    """Frozen values: a change here would change every training."""
    offsets, flips = draw_augmentation(0, 1, np.array([0, 1, 49_999]), 4, flip=True)
    assert offsets.tolist() == FROZEN_OFFSETS
    assert flips.tolist() == FROZEN_FLIPS


FROZEN_OFFSETS = [[2, 6], [5, 4], [3, 8]]
FROZEN_FLIPS = [True, False, False]
