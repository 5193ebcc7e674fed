"""The loss landscape: lengths of its directions, its numbers, and that it can be interrupted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minires.analysis import landscape
from minires.analysis.landscape import Landscape, Plan, filter_normalized, random_direction
from minires.backend import CPU
from minires.data import load_dataset
from minires.data.shapes import CLASSES
from minires.errors import Interrupted, UsageError
from minires.functional.loss import cross_entropy_forward
from minires.models import build
from minires.training.checkpoint import Checkpoint, save_checkpoint
from minires.training.trained import open_trained

PLAN = Plan(dims=2, points=3, span=0.5, images=20, split="test")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two networks of different weights."""
    found = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("run")
        model = build("resnet8", width=0.25, seed=seed, plain=bool(seed))
        config = {"dataset": "shapes", "model": "resnet8", "width": 0.25, "limit": 40}
        checkpoint = Checkpoint(
            *(model.state_dict(), model.spec, (0.4,) * 3, (0.2,) * 3, tuple(CLASSES)),
            config=config,
        )
        save_checkpoint(folder / "best.safetensors", checkpoint)
        found.append(open_trained(folder, device="cpu", threads=1))
    return found


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("MINIRES_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def test_each_filter_of_a_direction_is_as_long_as_its_weights():
    model = build("resnet8", width=0.5, device=CPU)
    direction = random_direction(model, seed=3, number=1)
    for name, parameter in model.named_parameters():
        drawn = direction[name]
        assert drawn.shape == parameter.shape
        if drawn.ndim == 1:
            assert not drawn.any()
            continue
        for own, weight in zip(drawn, parameter.data, strict=True):
            assert np.linalg.norm(own) == pytest.approx(np.linalg.norm(weight), rel=1e-5)
    others = (random_direction(model, 3, 0), random_direction(model, 4, 1))
    weights = direction["conv1.weight"]
    assert not any(np.allclose(other["conv1.weight"], weights) for other in others)
    np.testing.assert_array_equal(random_direction(model, 3, 1)["conv1.weight"], weights)


def test_a_filter_of_zeros_stays():
    weight = np.zeros((2, 3, 1, 1))
    weight[0] = 2.0
    drawn = filter_normalized(np.ones((2, 3, 1, 1)), weight)
    assert np.array_equal(drawn[0].ravel(), [2.0, 2.0, 2.0])
    assert not drawn[1].any()


def test_every_point_is_the_loss_at_moved_weights(trained, tmp_path):
    land = Landscape(trained, PLAN, tmp_path / "grid.npz")
    seen = []
    land.compute(lambda done, total: seen.append((done, total)))
    assert seen == [(n, 18) for n in range(1, 19)]
    run, grid = trained[1], land.grids[1]
    test = load_dataset("shapes", "test")
    x = ((test.images[:20] / 255 - 0.4) / 0.2).astype(np.float32)
    for i, a in enumerate((-0.5, 0.0, 0.5)):
        for j, b in enumerate((-0.5, 0.0, 0.5)):
            model = run.model().eval()
            first, second = (random_direction(model, 0, number) for number in (0, 1))
            for name, parameter in model.named_parameters():
                parameter.data[...] += (a * first[name] + b * second[name]).astype(np.float32)
            logits = model(x)
            loss, _ = cross_entropy_forward(logits, test.labels[:20])
            assert grid.loss[i, j] == pytest.approx(float(loss), rel=1e-4)
            accuracy = float((logits.argmax(axis=1) == test.labels[:20]).mean())
            assert grid.accuracy[i, j] == pytest.approx(accuracy, abs=0.051)  # ties may turn
    assert np.ptp(grid.loss) > 0.01 and grid.loss[0, 2] != grid.loss[2, 0]


def test_an_interrupted_one_goes_on_and_ends_the_same(trained, tmp_path):
    whole = Landscape(trained, PLAN, tmp_path / "whole.npz")
    whole.compute()

    def stop(done, total):
        if done == 11:
            raise KeyboardInterrupt

    part = Landscape(trained, PLAN, tmp_path / "part.npz")
    with pytest.raises(Interrupted, match="11 of 18 points are kept"):
        part.compute(stop)
    assert [int(grid.done.sum()) for grid in part.grids] == [9, 2]

    again = Landscape(trained, PLAN, tmp_path / "part.npz")
    assert again.finished == 11
    seen = []
    again.compute(lambda done, total: seen.append(done))
    assert seen == list(range(12, 19))
    for one, other in zip(whole.grids, again.grids, strict=True):
        np.testing.assert_array_equal(one.loss, other.loss)
        np.testing.assert_array_equal(one.accuracy, other.accuracy)
    finished = Landscape(trained, PLAN, tmp_path / "part.npz")
    finished.compute(lambda done, total: pytest.fail("nothing is left to compute"))


def test_it_is_saved_on_the_way(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(landscape, "SAVE_EVERY", 0.0)
    land = Landscape(trained, PLAN, tmp_path / "grid.npz")

    def killed(done, total):
        if done == 5:
            raise MemoryError  # nothing runs after a kill either

    with pytest.raises(MemoryError):
        land.compute(killed)
    assert Landscape(trained, PLAN, tmp_path / "grid.npz").finished == 4


@pytest.mark.parametrize(
    "change", [{"points": 5}, {"span": 1.0}, {"seed": 1}, {"images": 21}, {"dims": 1}]
)
def test_a_grid_of_other_points_is_refused(trained, tmp_path, change):
    Landscape(trained, PLAN, tmp_path / "grid.npz").save()
    with pytest.raises(UsageError, match=f"another landscape .other {next(iter(change))}"):
        Landscape(trained, replace(PLAN, **change), tmp_path / "grid.npz")


def test_a_grid_of_other_weights_is_refused(trained, tmp_path):
    Landscape(trained, PLAN, tmp_path / "grid.npz").save()
    with pytest.raises(UsageError, match="other weights"):
        Landscape(trained[::-1], PLAN, tmp_path / "grid.npz")


@pytest.mark.parametrize("content", [b"", b"not a grid", b"PK\x03\x04broken"])
def test_a_foreign_file_is_refused_and_kept(trained, tmp_path, content):
    file = tmp_path / "grid.npz"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="holds no landscape"):
        Landscape(trained, PLAN, file)
    assert file.read_bytes() == content
