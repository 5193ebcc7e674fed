"""Colour jitter and cutout against a loop over images and pixels, and their draws."""

from __future__ import annotations

import numpy as np
import pytest

from minires.functional.distortion import color_jitter, cutout, draw_cutout, draw_jitter


def random_images(count, shape=(3, 6, 9)):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def test_color_jitter_against_a_loop():
    x = random_images(5)
    before = x.copy()
    rng = np.random.default_rng(1)
    contrast, brightness = (rng.uniform(0.5, 1.5, 5).astype(np.float32) for _ in range(2))
    white = np.array([3.0, 4.0, 5.0], np.float32)
    y = color_jitter(x, contrast, brightness, white)
    assert y.dtype == np.float32
    for b, image in enumerate(x):
        for c in range(3):
            expected = contrast[b] * image[c] + brightness[b] * white[c]
            np.testing.assert_allclose(y[b, c], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(x, before)


def test_jitter_on_pixels_is_a_contrast_about_the_mean_and_a_shift():
    """Undone, the formula says: p' = mean + contrast * (p - mean) + brightness."""
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.3])
    pixels = np.random.default_rng(2).uniform(size=(1, 3, 4, 4))
    x = ((pixels - mean[:, None, None]) / std[:, None, None]).astype(np.float32)
    y = color_jitter(x, np.float32([1.2]), np.float32([-0.1]), (1 / std).astype(np.float32))
    back = y * std[:, None, None] + mean[:, None, None]
    expected = mean[:, None, None] + 1.2 * (pixels - mean[:, None, None]) - 0.1
    np.testing.assert_allclose(back, expected, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 5, 30])
def test_cutout_against_a_loop_over_pixels(size):
    x = random_images(40)
    before = x.copy()
    rng = np.random.default_rng(3)
    centers = np.stack([rng.integers(0, 6, 40), rng.integers(0, 9, 40)], axis=1)
    y = cutout(x, centers, size)
    assert y.dtype == np.float32
    for b, (row, column) in enumerate(centers):
        for i in range(6):
            for j in range(9):
                hole = 0 <= i - (row - size // 2) < size and 0 <= j - (column - size // 2) < size
                expected = np.zeros(3) if hole else x[b, :, i, j]
                np.testing.assert_array_equal(y[b, :, i, j], expected)
    np.testing.assert_array_equal(x, before)


def test_draws_are_even_and_depend_on_seed_epoch_and_image_alone():
    indices = np.arange(50_000)
    contrast, brightness = draw_jitter(3, 4, indices, 0.2)
    centers = draw_cutout(3, 4, indices, 32, 32)
    assert contrast.dtype == brightness.dtype == np.float32
    for values, middle in ((contrast, 1.0), (brightness, 0.0)):
        assert middle - 0.2 <= values.min() < middle - 0.199
        assert middle + 0.199 < values.max() <= middle + 0.2
        assert abs(values.mean() - middle) < 0.002
    assert abs(np.corrcoef(contrast, brightness)[0, 1]) < 0.02
    assert abs(np.bincount(centers[:, 0] * 32 + centers[:, 1], minlength=1024) - 49).max() < 40
    order = np.random.default_rng(0).permutation(indices)
    np.testing.assert_array_equal(draw_cutout(3, 4, order, 32, 32), centers[order])
    np.testing.assert_array_equal(draw_jitter(3, 4, order, 0.2)[0], contrast[order])
    assert (draw_cutout(3, 5, indices, 32, 32) == centers).all(axis=1).mean() < 0.01
