"""What makes a batch, against the reference: the same bits, wherever `place` has the kernels run.

on_cpu.py runs these checks on the CPU, test_on_gpu.py on a GPU.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernels.cuda.checking import draw, wide

from minires import functional as F
from minires.backend import to_host
from minires.functional import distortion, mixing
from minires.functional.augmentation import augment_batch, draw_augmentation, normalization_table
from minires.kernels import cuda

INDICES = np.array([8, 0, 3, 49_999, 1, 7, 2])
SHAPES = [(1, 1, 3, 3), (7, 3, 12, 10), (4, 5, 6, 7)]


def same(got, expected):
    """Bit for bit, and of the same type."""
    got = to_host(got)
    assert got.dtype == expected.dtype
    assert np.array_equal(got, expected)


def numbers(value, place):
    """A number as a launcher takes it: from the host, and from the memory of the device."""
    return value, place(np.array(value, np.int64))


def test_the_batch_is_that_of_the_cpu_bit_for_bit(place):
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (9, 3, 12, 10), dtype=np.uint8)
    indices = np.array([8, 0, 3, 3, 1, 7, 2])
    table = normalization_table((0.49, 0.48, 0.44), (0.2, 0.2, 0.2))
    stored = place(images), place(indices), place(table)
    reference = getattr(draw_augmentation, "reference", draw_augmentation)
    for seed, epoch, padding, flip in ((0, 0, 4, True), (7, 31, 2, True), (3, 1, 0, False)):
        wanted = reference(seed, epoch, indices, padding, flip)
        for given in numbers(epoch, place):
            drawn = cuda.head.draw_augmentation(seed, given, stored[1], padding, flip)
            assert all(np.array_equal(to_host(a), b) for a, b in zip(drawn, wanted, strict=True))
        x = cuda.head.augment_batch(*stored, *drawn, padding)
        expected = augment_batch.reference(images, indices, table, *wanted, padding)
        assert np.array_equal(to_host(x), expected)
    plain = cuda.head.augment_batch(*stored)
    assert np.array_equal(to_host(plain), augment_batch.reference(images, indices, table))


def test_the_labels_of_a_batch(place):
    labels, indices = np.arange(500) * 3 + 1, np.random.default_rng(1).permutation(500)[:300]
    same(cuda.head.take_labels(place(labels), place(indices)), labels[indices])
    narrow = place(labels.astype(np.int32))
    assert cuda.head.take_labels(narrow, place(indices)) is NotImplemented


def test_the_draws_of_jitter_and_cutout_are_those_of_the_cpu(place):
    cases = [(seed, e, given) for seed, e in ((0, 0), (7, 31)) for given in numbers(e, place)]
    for seed, epoch, number in cases:
        given = seed, number, place(INDICES)
        wanted = seed, epoch, INDICES
        pairs = zip(
            cuda.distortion.draw_jitter(*given, 0.2),
            distortion.draw_jitter.reference(*wanted, 0.2),
            strict=True,
        )
        for got, expected in pairs:
            same(got, expected)
        got = cuda.distortion.draw_cutout(*given, 32, 17)
        same(got, distortion.draw_cutout.reference(*wanted, 32, 17))


@pytest.mark.parametrize("count", [1, 7, 300])  # fewer than a block of keys, and more
@pytest.mark.parametrize("which", ["mixup", "cutmix", "both"])
def test_the_draws_of_the_mixing_are_those_of_the_cpu(count, which, place):
    rng = np.random.default_rng(count)
    indices = rng.permutation(50_000)[:count]
    tables = [
        mixing.beta_table(alpha) if which in (name, "both") else None
        for name, alpha in (("mixup", 0.4), ("cutmix", 1.0))
    ]
    placed = [None if table is None else place(table) for table in tables]
    wanted = mixing.draw_mixing.reference(3, 5, indices, *tables, (32, 24), 0.7)
    for epoch in numbers(5, place):
        got = cuda.distortion.draw_mixing(3, epoch, place(indices), *placed, (32, 24), 0.7)
        for mine, expected in zip(got, wanted, strict=True):
            same(mine, expected)
    labels = rng.integers(0, 10, count)
    targets = cuda.distortion.mixed_targets(place(labels), got, 10)
    same(targets, mixing.mixed_targets.reference(labels, wanted, 10))


@pytest.mark.parametrize("order", ["nchw", "nhwc"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_changes_of_a_batch(shape, order, dtype, place):
    rng = np.random.default_rng(sum(shape))
    n, c, h, w = shape
    x, others = draw(rng, shape, dtype, order), draw(rng, shape, dtype)
    contrast, brightness, white, blend = (
        rng.uniform(0, 1, size).astype(np.float32) for size in (n, n, c, n)
    )
    centers = np.stack([rng.integers(0, h, n), rng.integers(0, w, n)], axis=1)
    corners = np.sort(np.stack([rng.integers(0, h + 1, (n, 2)), rng.integers(0, w + 1, (n, 2))]))
    boxes = np.concatenate(list(corners), axis=1)
    places = rng.integers(0, n, n)
    cases = [
        ("color_jitter", distortion.color_jitter, (contrast, brightness, white), ()),
        ("cutout", distortion.cutout, (centers,), (4,)),
        ("cutout", distortion.cutout, (centers,), (5,)),
        ("take_images", F.take_images, (places,), ()),
        ("mixup", F.mixup, (others, blend), ()),
        ("cutmix", F.cutmix, (others, boxes), ()),
    ]
    for name, reference, arrays, numbers in cases:
        kernel = getattr(cuda.distortion, name)
        got = kernel(place(x), *(place(a) for a in arrays), *numbers)
        floats = [a.astype(np.float32) if a.dtype == dtype else a for a in (x, *arrays)]
        expected = reference.reference(*floats, *numbers)  # in float32, rounded once
        same(got, expected.astype(dtype))
        assert np.array_equal(*wide(got, expected.astype(dtype)))
