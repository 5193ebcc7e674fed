"""Runs side by side: rows over seeds, labels, unfinished runs, old records, the picture."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from minires.errors import CheckpointError, UsageError
from minires.training.comparison import common_title, compare, epochs_done, mean_and_deviation
from minires.training.comparison_curves import check_output, draw_comparison
from minires.training.config import TrainConfig

CONFIG = TrainConfig(epochs=3)
RESULTS = Path(__file__).parents[2] / "docs" / "results"


def epoch(number, accuracy):
    values = dict(train_loss=2 - accuracy, train_accuracy=accuracy, val_loss=2.1 - accuracy)
    return dict(kind="epoch", epoch=number, seconds=10.0 * number, images_per_second=100.0) | (
        values | dict(val_accuracy=accuracy, best=True)
    )


def make_run(folder, config, accuracies, test=None):
    """A run folder as a training leaves it, without its checkpoints."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(config.to_toml())
    lines = [json.dumps(epoch(i, a)) for i, a in enumerate(accuracies, 1)]
    (folder / "history.jsonl").write_text("\n".join(lines) + "\n")
    if test is not None:
        result = dict(best_val_accuracy=max(accuracies), test_accuracy=test, parameters=7)
        result |= dict(seconds=30.0, images_per_second=100.0, config=config.to_dict())
        (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def runs(tmp_path):
    """A factory of run folders: runs(name, accuracies, test, field=value, ...)."""

    def make(name, accuracies, test=None, **changes):
        return make_run(tmp_path / name, replace(CONFIG, **changes), accuracies, test)

    return make


def test_runs_that_differ_in_their_seed_alone_are_one_row(runs):
    a = runs("a", [0.2, 0.4, 0.6], 0.5, seed=0, threads=1)
    b = runs("b", [0.3, 0.4, 0.8], 0.7, seed=1, threads=2)
    c = runs("c", [0.5, 0.5, 0.9], 0.8, lr=0.1)
    first, second = compare([a, c, b])
    assert [run.path for run in first.runs] == [a, b]
    assert (first.label, second.label) == ("lr 0.2", "lr 0.1")
    deviation = statistics.stdev([0.5, 0.7])
    assert first.measure("test_accuracy") == pytest.approx(
        dict(mean=0.6, deviation=deviation, count=2)
    )
    assert first.measure("best_val_accuracy")["mean"] == pytest.approx(0.7)
    assert second.measure("test_accuracy") == dict(mean=0.8, deviation=0.0, count=1)


def test_the_same_training_twice_is_no_sample(runs):
    rows = compare([runs("a", [0.2], 0.5), runs("b", [0.3], 0.7)])
    assert [row.label for row in rows] == ["a", "b"]


def test_a_folder_given_twice_counts_once(runs):
    a = runs("a", [0.2], 0.5)
    assert len(compare([a, a / ".." / "a"])) == 1


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ([dict(plain=True), dict()], ["plain", "not plain"]),
        ([dict(model="cnn"), dict(), dict(plain=True)], ["cnn", "resnet20", "resnet20, plain"]),
        ([dict(blocks=(3, 4)), dict()], ["blocks 3,4", "blocks the family's own"]),
        ([dict(lr=0.1, optimizer="adam"), dict()], ["lr 0.1, adam", "lr 0.2, sgd"]),
        ([dict(conv="direct"), dict()], ["conv direct", "conv auto"]),
        ([dict(save_every=7)], ["resnet20"]),
    ],
)  # fmt: skip
def test_labels_say_what_differs(runs, changes, labels):
    rows = compare([runs(str(i), [0.1], 0.1, **c) for i, c in enumerate(changes)])
    assert [row.label for row in rows] == labels


def test_an_unfinished_run_tells_what_it_knows(runs):
    (row,) = compare([runs("a", [0.2, 0.4])])
    assert row.measure("test_accuracy") is None
    assert row.measure("best_val_accuracy")["mean"] == 0.4
    assert row.measure("parameters")["mean"] == 269_722
    assert row.measure("seconds")["mean"] == 20.0
    assert epochs_done(row) == "2 of 3"


def test_a_run_that_has_just_begun_has_a_row_and_no_picture(runs, tmp_path):
    rows = compare([runs("a", [])])
    assert epochs_done(rows[0]) == "0 of 3" and rows[0].measure("seconds") is None
    assert not draw_comparison(rows, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_records_of_an_older_version_can_be_compared():
    rows = compare(sorted(RESULTS.glob("resnet20-6-epochs-seed?")))
    assert len(rows) == 1 and len(rows[0].runs) == 2
    values = [
        json.loads(p.read_text()) for p in RESULTS.glob("resnet20-6-epochs-seed?/result.json")
    ]
    assert rows[0].measure("test_accuracy")["mean"] == pytest.approx(
        sum(v["test_accuracy"] for v in values) / 2
    )
    assert common_title(rows) == "resnet20 on cifar10"


def test_what_is_no_run_is_named(runs, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        compare([tmp_path / "nowhere"])
    imported = tmp_path / "imported"
    imported.mkdir()
    (imported / "best.safetensors").touch()
    with pytest.raises(CheckpointError, match="neither config.toml nor result.json"):
        compare([imported])
    broken = runs("broken", [0.1])
    (broken / "config.toml").write_text("epochs = ")
    with pytest.raises(CheckpointError, match="broken/config.toml: cannot be read"):
        compare([broken])
    (broken / "config.toml").write_text("epocs = 3")
    with pytest.raises(CheckpointError, match="epocs: unknown key; did you mean 'epochs'"):
        compare([broken])


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_picture_is_drawn_in_each_format(runs, tmp_path, ending):
    rows = compare([runs(str(s), [0.2, 0.4 + s / 10], 0.5, seed=s) for s in (0, 1)])
    path = tmp_path / f"picture.{ending}"
    assert draw_comparison(rows, path)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert path.read_bytes().startswith(start)
    if ending == "png":
        with Image.open(path) as image:
            assert min(image.size) > 400
    if ending == "svg":
        assert "standard deviation over the seeds" in path.read_text()


def test_the_band_covers_the_epochs_that_all_seeds_reached(runs):
    from minires.training.comparison_curves import _means

    a, b = runs("a", [0.2, 0.4, 0.6], 0.5, seed=0), runs("b", [0.4, 0.5], seed=1)
    (row,) = compare([a, b, runs("c", [], seed=2)])
    points = _means(row, "val_accuracy")
    assert [e for e, _ in points] == [1, 2]
    assert points[0][1] == pytest.approx(dict(mean=0.3, deviation=0.2 / 2**0.5, count=2))


def test_deviation_of_a_few_values():
    assert mean_and_deviation([]) is None
    assert mean_and_deviation([3.0]) == dict(mean=3.0, deviation=0.0, count=1)
    assert mean_and_deviation([1.0, 3.0]) == pytest.approx(dict(mean=2, deviation=2**0.5, count=2))


def test_an_output_that_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(UsageError, match="must end in .png, .svg, .pdf"):
        check_output(tmp_path / "a.jpeg")
    with pytest.raises(UsageError, match="its folder does not exist"):
        check_output(tmp_path / "b" / "a.png")
