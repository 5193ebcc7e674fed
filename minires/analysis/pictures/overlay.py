"""Heat over an image: the more heat, the less of the image is left."""

from __future__ import annotations

import numpy as np

HEAT = "inferno"
STRONGEST = 0.75
"""The share of the colour where the heat is 1; the image shows through it."""


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """image uint8 (3, H, W) with heat (h, w), 0 to 1, smoothly enlarged: uint8 (H, W, 3)."""
    from matplotlib import colormaps
    from PIL import Image

    height, width = image.shape[1:]
    large = Image.fromarray(heat.astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    heat = np.clip(np.asarray(large, dtype=np.float64), 0, 1)
    share = STRONGEST * heat[:, :, None]
    color = 255 * colormaps[HEAT](heat)[:, :, :3]
    return (image.transpose(1, 2, 0) * (1 - share) + color * share).round().astype(np.uint8)
