"""The first convolution that whitens: what it does to the images, and that it stays."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from minires.backend import CPU
from minires.data import compute_normalization
from minires.data.shapes import draw_shapes
from minires.errors import Interrupted, UsageError
from minires.models import build
from minires.training.checkpoint import load_checkpoint
from minires.training.loop import Callback
from minires.training.resolve import resolve
from minires.training.runner import resume, start
from minires.training.setup import make_model
from minires.training.whitening import EPS, whiten_first_conv, whitening_filters

IMAGES, _ = draw_shapes("train", 150)
NORM = compute_normalization(IMAGES)
OPTIONS = dict(dataset="shapes", limit=60, model="resnet8", width=0.5, epochs=2, batch_size=16)
OPTIONS |= dict(whiten=True, device="cpu", threads=1)


def patches(size):
    """All patches of the normalised images as rows, (count, 3 size^2), by explicit loops."""
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (NORM.mean, NORM.std))
    rows = []
    for image in (IMAGES / 255 - mean) / std:
        for i in range(33 - size):
            for j in range(33 - size):
                rows.append(image[:, i : i + size, j : j + size].ravel())
    return np.array(rows)


@pytest.mark.parametrize("size", [1, 3])
def test_the_outputs_are_uncorrelated_and_of_one_size(size):
    filters = whitening_filters(IMAGES, NORM, size)
    directions = 3 * size * size
    assert filters.shape == (2 * directions, 3, size, size) and filters.dtype == np.float32
    np.testing.assert_array_equal(filters[1::2], -filters[::2])
    rows = patches(size)
    outputs = rows @ filters[::2].reshape(directions, -1).T
    covariance = np.cov(outputs, rowvar=False, bias=True)
    variances = np.linalg.eigvalsh(np.cov(rows, rowvar=False, bias=True))[::-1]
    np.testing.assert_allclose(covariance, np.diag(variances / (variances + EPS)), atol=2e-3)


def test_the_directions_of_the_largest_variance_come_first():
    filters = whitening_filters(IMAGES, NORM, 3)[::2].reshape(27, -1)
    lengths = np.linalg.norm(filters, axis=1)  # 1 / deviation
    assert (np.diff(lengths) > -1e-6).all()
    assert np.abs(filters).max(axis=1) == pytest.approx(filters.max(axis=1))


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_as_many_filters_as_there_are_and_the_rest_stays(width):
    model = build("resnet9", width=width)
    before = model.first_conv.weight.data.copy()
    whiten_first_conv(model, IMAGES, np.arange(150), NORM)
    after, filters = model.first_conv.weight.data, whitening_filters(IMAGES, NORM, 3)
    count = min(54, len(after))
    np.testing.assert_array_equal(after[:count], filters[:count])
    np.testing.assert_array_equal(after[count:], before[count:])


def test_training_leaves_them_alone_also_over_a_resume(tmp_path, monkeypatch):
    monkeypatch.delenv("MINIRES_DATA", raising=False)

    class Stop(Callback):
        def on_epoch(self, trainer, metrics):
            os.kill(os.getpid(), signal.SIGINT)

    whole, run = tmp_path / "whole", tmp_path / "run"
    said = []
    start(resolve(OPTIONS), whole, said.append)
    assert any("parameters" in line and " trained)" in line for line in said)
    with pytest.raises(Interrupted):
        start(resolve(OPTIONS), run, str, Stop())
    resume(run, say=str)
    ours, theirs = (load_checkpoint(path / "last.safetensors") for path in (run, whole))
    assert "momentum.conv1.weight" not in ours.optimizer
    assert all(ours.model[name].tobytes() == a.tobytes() for name, a in theirs.model.items())
    from minires.training.setup import load_training_data

    data = load_training_data(resolve(OPTIONS))
    model = make_model(resolve(OPTIONS), 10, CPU)
    whiten_first_conv(model, data.train.images, data.train_indices, data.normalization)
    np.testing.assert_array_equal(theirs.model["conv1.weight"], model.conv1.weight.data)
    assert theirs.model["bn1.weight"].tobytes() != model.bn1.weight.data.tobytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (dict(pretrained="x"), "--whiten and --pretrained"),
        (dict(stem="imagenet"), "--whiten: the first layer of resnet8 is no 3x3 convolution"),
        (dict(upsample=2), "--whiten: the first layer of resnet8 is no 3x3 convolution"),
        (dict(model="resnet50-transfer"), "--whiten: the first layer of resnet50-transfer"),
    ],
)
def test_where_there_is_nothing_to_whiten(more, message, tmp_path, monkeypatch):
    monkeypatch.delenv("MINIRES_DATA", raising=False)
    with pytest.raises(UsageError, match=message):
        start(resolve(OPTIONS | more), tmp_path / "run", str)
    assert not Path(tmp_path / "run").exists()
