"""The drawn data set: the same bits always, balanced, and beyond a linear model."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from minires.data.shapes import CLASSES, draw_shapes


@pytest.fixture(scope="module")
def train():
    return draw_shapes("train")


@pytest.fixture(scope="module")
def unseen():
    return draw_shapes("test")


def digest(images, labels) -> str:
    return hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()


def test_frozen(train, unseen):
    """The same bits on every machine; a change here changes the data set for everyone."""
    assert digest(*train) == FROZEN_TRAIN
    assert digest(*unseen) == FROZEN_TEST


FROZEN_TRAIN = "d3928f6ee42aad973231015fdd8601bdfc209407a7585e7e8c1d3c68865918e2"
FROZEN_TEST = "67fb6dd465c9999ea6d3fb9759f110e39048829d21f20857750ff787caa63b92"


def test_form(train, unseen):
    for (images, labels), count in ((train, 5_000), (unseen, 1_000)):
        assert images.shape == (count, 3, 32, 32) and images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert np.bincount(labels).tolist() == [count // 10] * 10
    assert len(CLASSES) == 10


def test_the_seed_decides(train):
    images, labels = draw_shapes("train", seed=0)
    np.testing.assert_array_equal(images, train[0])
    np.testing.assert_array_equal(labels, train[1])
    assert not np.array_equal(draw_shapes("train", seed=1)[0], images)


def test_any_number_of_images():
    images, labels = draw_shapes("test", 23)
    assert len(images) == 23
    assert set(np.bincount(labels, minlength=10)) == {2, 3}


def test_no_image_twice(train, unseen):
    together = np.concatenate([train[0], unseen[0]]).reshape(6_000, -1)
    assert len(np.unique(together, axis=0)) == 6_000


def test_a_distance_has_the_slope_of_a_distance():
    """No function may overstate the way to its edge: neighbours differ by a step at most."""
    places = np.linspace(-1.2, 1.2, 97)
    u, v = np.meshgrid(places, places)
    step = places[1] - places[0]
    for name, distance in CLASSES.items():
        values = distance(u, v)
        slope = max(np.abs(np.diff(values, axis=axis)).max() for axis in (0, 1)) / step
        assert slope < 1.001, name
        assert values.min() < -0.1 and values[0].min() > 0 and values[:, 0].min() > 0, name


def test_shapes_cover_about_as_much_as_geometry_says():
    """Areas by counting points against areas by formula."""
    places = np.linspace(-1.25, 1.25, 1_001)
    u, v = np.meshgrid(places, places)
    cell = (places[1] - places[0]) ** 2
    expected = {
        "disk": np.pi * 0.8**2,
        "ring": np.pi * (0.83**2 - 0.47**2),
        "triangle": 3 * np.sqrt(3) * 0.48**2,
        "square": 1.36**2,
        "cross": 4 * (2 * 0.9 * 0.25) - 0.5**2,
    }
    for name, area in expected.items():
        assert (CLASSES[name](u, v) < 0).sum() * cell == pytest.approx(area, rel=0.02), name


def test_a_linear_model_fails(train, unseen):
    """Softmax regression on the pixels stays below one half on the test images."""
    (x, labels), (x_test, labels_test) = (
        (images.reshape(len(images), -1).astype(np.float32) / 255, labels)
        for images, labels in (train, unseen)
    )
    mean, std = x.mean(axis=0), x.std(axis=0)
    x, x_test = (x - mean) / std, (x_test - mean) / std
    weight = np.zeros((10, x.shape[1]), dtype=np.float32)
    velocity = np.zeros_like(weight)
    generator = np.random.default_rng(0)
    for _ in range(10):
        order = generator.permutation(len(x))
        for start in range(0, len(x), 100):
            batch = order[start : start + 100]
            logits = x[batch] @ weight.T
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            p[np.arange(len(batch)), labels[batch]] -= 1
            velocity = 0.9 * velocity + p.T @ x[batch] / len(batch) + 0.01 * weight
            weight -= 0.003 * velocity
    train_accuracy = (np.argmax(x @ weight.T, axis=1) == labels).mean()
    accuracy = (np.argmax(x_test @ weight.T, axis=1) == labels_test).mean()
    assert train_accuracy > 0.2, "the model does learn what it can"
    assert accuracy < 0.5
