r"""Mixup and cutmix: two images in one, and a target that names both.

Each image b of a batch meets another one, b', and a share $\lambda_b \sim \mathrm{Beta}(\alpha,
\alpha)$. Mixup blends them, $y_b = \lambda_b x_b + (1 - \lambda_b) x_{b'}$; cutmix pastes a box of
x_{b'} that covers the share $1 - \lambda_b$. The target is $\lambda_b$ at the label of b plus
$1 - \lambda_b$ at that of b'.

The partner depends on (seed, epoch, the images of the batch), all else on (seed, epoch, the image).

Sources: Zhang et al. 2018, "mixup: beyond empirical risk minimization", section 2; Yun et al. 2019,
"CutMix: regularization strategy to train strong classifiers with localizable features", section 3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minires.backend import Array, array_module, operation
from minires.functional.distortion import box_mask
from minires.functional.random import AUGMENT, integers, random_bits, uniform

SHARE, KIND, ROW, COLUMN, ORDER, WHETHER = range(7, 13)
"""Numbers of the draws in the stream AUGMENT."""

TABLE_BITS = 12


class Mixing(NamedTuple):
    """How each image of a batch is mixed.

    partner: int64 (B,), the place in the batch of the other image. blend: float32 (B,), the share
    that mixup keeps, 1 for images that it leaves alone. boxes: int64 (B, 4), top, bottom, left,
    right (ends not included) of what cutmix pastes, empty for images that it leaves alone. share:
    float32 (B,), the share of the image's own label.
    """

    partner: Array
    blend: Array
    boxes: Array
    share: Array


def beta_table(alpha: float) -> np.ndarray:
    """4096 numbers that stand for Beta(alpha, alpha): its quantiles at (i + 1/2) / 4096, float32.

    A draw is one of them, found by 12 random bits, so every device draws the same. The density is
    x^(alpha - 1) (1 - x)^(alpha - 1); below alpha 1, where it has poles at 0 and 1, it is
    integrated over y = x^alpha instead of x. Up to x = 1/2, then by symmetry.
    """
    count = 2**TABLE_BITS
    t = np.linspace(0.0, 1.0, 100_001)
    if alpha < 1:
        x = 0.5 * t ** (1 / alpha)
        density = (1 - x) ** (alpha - 1)
    else:
        x = 0.5 * t
        density = (4 * x * (1 - x)) ** (alpha - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    places = np.interp((np.arange(count // 2) + 0.5) / count, 0.5 * area / area[-1], t)
    lower = 0.5 * places ** (1 / alpha) if alpha < 1 else 0.5 * places
    return np.concatenate([lower, 1 - lower[::-1]]).astype(np.float32)


@operation
def draw_mixing(
    seed: int,
    epoch: int,
    indices: Array,
    mixup_table: Array | None,
    cutmix_table: Array | None,
    size: tuple[int, int],
    taken: float = 1.0,
) -> Mixing:
    """The mixing of images `indices`, int64 (B,), in `epoch`.

    Tables are those of `beta_table`, on the device; None switches one of the two off. With both,
    each image takes one of them, by a coin. `size` is (H, W); `taken` is the share of images that
    are mixed at all.
    """
    xp = array_module(indices)

    def bits(draw: int) -> Array:
        return random_bits(seed, AUGMENT, epoch, indices, draw)

    order = xp.argsort(bits(ORDER), kind="stable")
    partner = xp.empty_like(order)
    partner[order] = xp.roll(order, -1)  # the next one in a random order: never the image itself

    mixed = uniform(bits(WHETHER)) < taken
    heads = (bits(KIND) >> np.uint64(63)).astype(bool)
    place = (bits(SHARE) >> np.uint64(64 - TABLE_BITS)).astype(np.int64)
    one = xp.ones(len(indices), np.float32)
    blends = mixed & (heads if cutmix_table is not None else True)
    blend = one if mixup_table is None else xp.where(blends, mixup_table[place], one)

    height, width = size
    boxes = xp.zeros((len(indices), 4), np.int64)
    if cutmix_table is not None:
        pastes = mixed & (~heads if mixup_table is not None else True)
        side = xp.sqrt(1 - cutmix_table[place]) * pastes
        for start, length, draw in ((0, height, ROW), (2, width, COLUMN)):
            half = (side * length).astype(np.int64) // 2
            center = integers(bits(draw), 0, length - 1)
            boxes[:, start] = (center - half).clip(0, length)
            boxes[:, start + 1] = (center + half).clip(0, length)
    area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
    pasted = area.astype(np.float32) / np.float32(height * width)
    return Mixing(partner, blend, boxes, blend * (1 - pasted))


@operation
def take_images(x: Array, places: Array) -> Array:
    """y[b] = x[places[b]]: images (B, C, H, W), places int64 (B,), such as the partners."""
    return x[places]


@operation
def mixup(x: Array, others: Array, blend: Array) -> Array:
    """y[b] = blend[b] * x[b] + (1 - blend[b]) * others[b]: images (B, C, H, W), blend (B,)."""
    blend = blend[:, None, None, None]
    y = x * blend
    y += others * (1 - blend)
    return y.astype(x.dtype, copy=False)


@operation
def cutmix(x: Array, others: Array, boxes: Array) -> Array:
    """others[b] inside of boxes[b], x[b] outside: images (B, C, H, W), boxes int64 (B, 4)."""
    inside = box_mask(*(boxes[:, side] for side in range(4)), x)
    return array_module(x).where(inside[:, None], others, x)


@operation
def mixed_targets(labels: Array, mixing: Mixing, num_classes: int) -> Array:
    """t[b, k] = share[b] * [k = labels[b]] + (1 - share[b]) * [k = labels[partner[b]]].

    labels: int64 (B,); returns float32 (B, num_classes), rows that sum to 1.
    """
    xp = array_module(labels)
    classes = xp.arange(num_classes)
    own = (labels[:, None] == classes).astype(np.float32)
    other = own[mixing.partner]
    share = mixing.share[:, None]
    return share * own + (1 - share) * other
