"""The loader: which images, in which order, and that a batch has no history."""

from __future__ import annotations

import numpy as np
import pytest

from minires.backend import Device
from minires.data import AugmentConfig, Dataset, Loader, Normalization
from minires.errors import UsageError

NORMALIZATION = Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
COUNT = 50


@pytest.fixture
def dataset():
    """Fifty images; the label of an image is its index, so that a batch tells what is in it."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 3, 32, 32), dtype=np.uint8)
    return Dataset("test", images, np.arange(COUNT), tuple(map(str, range(COUNT))))


def loader(dataset, indices=None, batch_size=8, **options) -> Loader:
    indices = np.arange(COUNT) if indices is None else indices
    device = Device("cpu")
    return Loader(
        dataset, indices, batch_size, device=device, normalization=NORMALIZATION, **options
    )


TRAINING = dict(shuffle=True, augment=AugmentConfig(), drop_last=True, seed=4)


def test_plain_batches_in_order(dataset):
    batches = list(loader(dataset).epoch(0))
    assert len(batches) == len(loader(dataset)) == 7
    assert [len(labels) for _, labels in batches] == [8] * 6 + [2]
    assert np.concatenate([labels for _, labels in batches]).tolist() == list(range(COUNT))
    x, labels = batches[0]
    assert x.dtype == np.float32 and x.shape == (8, 3, 32, 32) and labels.dtype == np.int64
    for channel in range(3):
        mean, std = NORMALIZATION.mean[channel], NORMALIZATION.std[channel]
        expected = (dataset.images[:8, channel] / 255 - mean) / std
        np.testing.assert_allclose(x[:, channel], expected, rtol=1e-6, atol=1e-7)


def test_the_last_images_may_be_left_out(dataset):
    whole = loader(dataset, drop_last=True)
    assert len(whole) == 6 and whole.images_per_epoch == 48
    assert [len(labels) for _, labels in whole.epoch(0)] == [8] * 6
    assert loader(dataset).images_per_epoch == COUNT


def test_shuffling_uses_each_image_once_and_each_epoch_anew(dataset):
    indices = np.arange(3, 43)
    epochs = [
        np.concatenate([labels for _, labels in loader(dataset, indices, shuffle=True).epoch(n)])
        for n in range(3)
    ]
    for labels in epochs:
        assert sorted(labels) == list(indices)
        assert labels.tolist() != list(indices)
    assert epochs[0].tolist() != epochs[1].tolist() != epochs[2].tolist()


def test_the_order_depends_on_the_images_not_on_how_they_were_listed(dataset):
    forward, backward = (
        loader(dataset, indices, shuffle=True).order(2)
        for indices in (np.arange(COUNT), np.arange(COUNT)[::-1])
    )
    np.testing.assert_array_equal(forward, backward)


def test_all_orders_are_about_as_likely():
    """Where image 0 lands, over many epochs: evenly spread."""
    images = np.zeros((8, 3, 32, 32), np.uint8)
    small = Dataset("test", images, np.arange(8), tuple("abcdefgh"))
    shuffled = loader(small, np.arange(8), shuffle=True)
    places = [shuffled.order(epoch).tolist().index(0) for epoch in range(4_000)]
    assert abs(np.bincount(places, minlength=8) - 500).max() < 120


def test_same_seed_same_batches(dataset):
    first = list(loader(dataset, **TRAINING).epoch(3))
    for (x, labels), (again, same) in zip(first, loader(dataset, **TRAINING).epoch(3), strict=True):
        np.testing.assert_array_equal(x, again)
        np.testing.assert_array_equal(labels, same)
    other = next(loader(dataset, **{**TRAINING, "seed": 5}).epoch(3))
    assert not np.array_equal(other[0], first[0][0])


@pytest.mark.parametrize("start", [0, 1, 4, 5, 6])
def test_starting_in_the_middle_gives_the_same_batches(dataset, start):
    whole = list(loader(dataset, **TRAINING).epoch(2))
    rest = list(loader(dataset, **TRAINING).epoch(2, start_batch=start))
    assert len(rest) == len(whole) - start
    for (x, labels), (expected, expected_labels) in zip(rest, whole[start:], strict=True):
        np.testing.assert_array_equal(x, expected)
        np.testing.assert_array_equal(labels, expected_labels)


def test_an_image_is_augmented_alike_in_any_batch_size(dataset):
    def by_label(batch_size):
        batches = loader(dataset, batch_size=batch_size, seed=1, augment=AugmentConfig()).epoch(6)
        return {int(n): image for x, labels in batches for n, image in zip(labels, x, strict=True)}

    small, large = by_label(7), by_label(50)
    for label, image in small.items():
        np.testing.assert_array_equal(image, large[label])


def test_augmentation_can_be_crop_or_flip_alone(dataset):
    plain = next(loader(dataset, batch_size=COUNT).epoch(0))[0]

    def augmented(**config):
        return next(loader(dataset, batch_size=COUNT, augment=AugmentConfig(**config)).epoch(0))[0]

    np.testing.assert_array_equal(augmented(crop_padding=0, flip=False), plain)
    flipped = augmented(crop_padding=0, flip=True)
    same = (flipped == plain).all(axis=(1, 2, 3))
    mirrored = (flipped == plain[..., ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all() and same.any() and mirrored.any()
    cropped = augmented(crop_padding=2, flip=False)
    assert not (cropped == plain).all(axis=(1, 2, 3)).all()


def test_images_are_not_copied_or_changed_on_the_cpu(dataset):
    dataset.images.flags.writeable = False
    training = loader(dataset, **TRAINING)
    assert training.dataset.images is dataset.images
    assert len(list(training.epoch(0))) == 6


@pytest.mark.parametrize(
    "options", [dict(batch_size=0), dict(indices=[50]), dict(indices=[-1]), dict(indices=[])]
)
def test_what_cannot_be_loaded(dataset, options):
    with pytest.raises(UsageError):
        loader(dataset, **options)


EVERYTHING = AugmentConfig(
    crop_padding=0, flip=False, color_jitter=0.2, cutout=8, mixup=0.4, cutmix=1.0, mix_share=0.7
)


def test_jitter_cutout_and_mixing_written_out_by_hand(dataset):
    """The parts in their order, from the draws: jitter, hole, partner."""
    from minires.functional.distortion import draw_cutout, draw_jitter
    from minires.functional.mixing import beta_table, draw_mixing

    indices = np.array([4, 9, 30, 11, 2, 45])
    ((x, shares),) = loader(dataset, indices, augment=EVERYTHING, seed=3).epoch(5)
    contrast, brightness = draw_jitter(3, 5, indices, 0.2)
    centers = draw_cutout(3, 5, indices, 32, 32)
    tables = beta_table(0.4), beta_table(1.0)
    mixing = draw_mixing(3, 5, indices, *tables, (32, 32), 0.7)
    single = []
    for b, index in enumerate(indices):
        mean, std = (np.array(n)[:, None, None] for n in (NORMALIZATION.mean, NORMALIZATION.std))
        image = (dataset.images[index] / 255 - mean) / std
        image = contrast[b] * image + brightness[b] / std
        row, column = centers[b] - 4
        image[:, max(row, 0) : row + 8, max(column, 0) : column + 8] = 0
        single.append(image)
    assert x.dtype == shares.dtype == np.float32 and shares.shape == (6, COUNT)
    for b, index in enumerate(indices):
        other, blend = mixing.partner[b], mixing.blend[b]
        top, bottom, left, right = mixing.boxes[b]
        expected = blend * single[b] + (1 - blend) * single[other]
        expected[:, top:bottom, left:right] = single[other][:, top:bottom, left:right]
        np.testing.assert_allclose(x[b], expected, rtol=1e-5, atol=1e-5)
        assert shares[b, index] == pytest.approx(mixing.share[b], abs=1e-6)
        assert shares[b].sum() == pytest.approx(1, abs=1e-6)
        assert shares[b, indices[other]] == pytest.approx(1 - mixing.share[b], abs=1e-6)


def test_a_mixed_epoch_that_starts_in_the_middle_gives_the_same_batches(dataset):
    options = TRAINING | dict(augment=EVERYTHING)
    whole = list(loader(dataset, **options).epoch(2))
    rest = list(loader(dataset, **options).epoch(2, start_batch=3))
    for ours, theirs in zip(rest, whole[3:], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_each_kind_of_mixing_works_alone_and_the_shares_tell_what_was_mixed(dataset, kind):
    plain, mixed = AugmentConfig(0, False), AugmentConfig(0, False, **{kind: 1.0})
    ((x, labels),) = loader(dataset, batch_size=COUNT, augment=plain).epoch(0)
    ((y, shares),) = loader(dataset, batch_size=COUNT, augment=mixed).epoch(0)
    own = shares[labels, labels]
    assert ((own > 0.05) & (own < 0.95)).sum() > COUNT / 2
    for b in labels:
        others = shares[b].copy()
        others[b] = 0
        other = others.argmax()
        np.testing.assert_allclose(own[b] + others[other], 1, atol=1e-6)
        if kind == "mixup":
            np.testing.assert_allclose(y[b], own[b] * x[b] + (1 - own[b]) * x[other], atol=1e-5)
        else:
            pasted = (y[b] != x[b]).any(axis=0)
            np.testing.assert_array_equal(y[b], np.where(pasted, x[other], x[b]))
            assert pasted.mean() == pytest.approx(1 - own[b], abs=1e-6)
