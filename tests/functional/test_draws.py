"""All random choices about a training image together: none may depend on another."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from minires.functional.augmentation import draw_augmentation
from minires.functional.distortion import draw_cutout, draw_jitter
from minires.functional.mixing import beta_table, draw_mixing

COUNT = 20_000


def choices():
    """What is chosen for each of many images in one epoch, a number each, by name."""
    images, even = np.arange(COUNT), beta_table(1.0)
    half = np.full(len(even), 0.75, np.float32)  # boxes of half the side
    offsets, flips = draw_augmentation(3, 4, images, 4, True)
    centers = draw_cutout(3, 4, images, 32, 32)
    contrast, brightness = draw_jitter(3, 4, images, 0.5)
    pasted = draw_mixing(3, 4, images, None, half, (32, 32)).boxes
    return {
        "crop, down": offsets[:, 0],
        "crop, right": offsets[:, 1],
        "flip": flips,
        "cutout, row": centers[:, 0],
        "cutout, column": centers[:, 1],
        "contrast": contrast,
        "brightness": brightness,
        "mixup, share": draw_mixing(3, 4, images, even, None, (32, 32)).blend,
        "mixup or cutmix": draw_mixing(3, 4, images, even, half, (32, 32)).blend < 1,
        "mixed at all": draw_mixing(3, 4, images, even, None, (32, 32), 0.5).blend < 1,
        "cutmix, row": pasted[:, 0] + pasted[:, 1],
        "cutmix, column": pasted[:, 2] + pasted[:, 3],
    }


def test_no_choice_about_an_image_depends_on_another():
    values = choices()
    limit = 5 / COUNT**0.5  # five standard deviations of a correlation that is 0
    for first, second in combinations(values, 2):
        correlation = np.corrcoef(values[first].astype(float), values[second].astype(float))[0, 1]
        assert abs(correlation) < limit, f"{first} and {second} share their random numbers"
