"""Several trainings as one task: seeds, interruption, and the task given again."""

from __future__ import annotations

import functools
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from minires.data.shapes import draw_shapes
from minires.errors import CheckpointError, Interrupted, UsageError
from minires.training.checkpoint import load_checkpoint
from minires.training.group import members_of, parse_seeds, train_group
from minires.training.loop import Callback
from minires.training.resolve import resolve

CONFIG = resolve(
    dict(dataset="shapes", limit=80, model="resnet8", width=0.25, epochs=2, batch_size=16)
    | dict(device="cpu", threads=1)
)


draw_once = functools.cache(draw_shapes)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minires.data.dataset.draw_shapes", draw_once)
    monkeypatch.delenv("MINIRES_DATA", raising=False)


def train(seeds, base=None, config=CONFIG, progress=Callback, said=None):
    say = (lambda line: None) if said is None else said.append
    members = members_of({"": config}, seeds)
    return train_group(members, "resnet8-shapes", base, {}, say, progress, "minires")


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0..2", [0, 1, 2]), ("3", [3]), ("5, 1,2", [5, 1, 2]), ("7..7,0..1", [7, 0, 1])],
)
def test_seeds_are_ranges_and_numbers(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *[
            (text, "must be numbers such as")
            for text in ("", "a", "1..", "..2", "1,,2", "-1", "1.5")
        ],
        ("3..1", "3..1 runs backwards"),
        ("1,0..2", "names a seed twice"),
        ("0..99999999999", "more than 1000 trainings"),
    ],
)
def test_other_texts_are_refused_in_one_line(text, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        parse_seeds(text)
    assert str(caught.value).startswith(f"--seeds {text}: ")


def test_members_are_all_runs_with_all_seeds():
    other = resolve(dict(model="cnn"))
    members = members_of({"a": CONFIG, "b": other}, [4, 5])
    assert [m.name for m in members] == ["a-seed4", "a-seed5", "b-seed4", "b-seed5"]
    assert [(m.config.model, m.config.seed) for m in members][1:3] == [("resnet8", 5), ("cnn", 4)]
    assert [m.name for m in members_of({"a": CONFIG, "b": other}, None)] == ["a", "b"]


def test_each_seed_is_the_training_that_it_would_be_alone():
    from minires.training.runner import start

    group = train([0, 7])
    assert group["base"] == "runs/resnet8-shapes-001"
    assert [r["run"] for r in group["runs"]] == [f"runs/resnet8-shapes-001-seed{s}" for s in (0, 7)]
    start(resolve({}, Path("runs/resnet8-shapes-001-seed7/config.toml")), Path("alone"), str)
    alone = load_checkpoint(Path("alone/last.safetensors")).model
    seed7 = load_checkpoint(Path("runs/resnet8-shapes-001-seed7/last.safetensors")).model
    seed0 = load_checkpoint(Path("runs/resnet8-shapes-001-seed0/last.safetensors")).model
    assert all(seed7[name].tobytes() == array.tobytes() for name, array in alone.items())
    assert seed0["fc.weight"].tobytes() != alone["fc.weight"].tobytes()


def test_the_mean_and_deviation_are_those_of_the_results():
    group = train([0, 1, 2])
    values = [result["test_accuracy"] for result in group["runs"]]
    mean = sum(values) / 3
    deviation = (sum((v - mean) ** 2 for v in values) / 2) ** 0.5
    (row,) = group["rows"]
    assert row["test_accuracy"] == pytest.approx(dict(mean=mean, deviation=deviation, count=3))


class StopAt(Callback):
    """Ctrl-C after so many steps of this process."""

    left = 0

    def on_step(self, trainer):
        StopAt.left -= 1
        if StopAt.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_group_goes_on_where_it_stopped():
    whole = train([0, 1, 2], Path("whole"))
    StopAt.left = 10  # of 8 steps for each seed
    with pytest.raises(Interrupted, match="^seed1: Ctrl-C: stopped after step 2 of 8") as caught:
        train([0, 1, 2], progress=StopAt)
    assert caught.value.exit_code == 130 and "the same command again" in str(caught.value)
    assert not Path("runs/resnet8-shapes-001-seed2").exists()
    first = Path("runs/resnet8-shapes-001-seed0/last.safetensors").stat().st_mtime_ns
    said = []
    group = train([0, 1, 2], said=said)
    assert any("seed0 is finished already" in line for line in said)
    assert "resumed  after step 2 of 8" in said
    assert Path("runs/resnet8-shapes-001-seed0/last.safetensors").stat().st_mtime_ns == first
    same = ("seed", "steps", "val_accuracy", "test_accuracy", "test_loss")
    for ours, theirs in zip(group["runs"], whole["runs"], strict=True):
        assert {k: ours[k] for k in same} == {k: theirs[k] for k in same}


def test_more_seeds_join_the_group_and_other_settings_begin_another():
    train([0])
    assert train([0, 1])["base"] == "runs/resnet8-shapes-001"
    shorter = replace(CONFIG, epochs=1)
    assert train([0], config=shorter)["base"] == "runs/resnet8-shapes-002"
    assert train([0, 1])["base"] == "runs/resnet8-shapes-001"


def test_a_folder_of_another_training_is_left_alone():
    train([0], Path("mine"))
    other = replace(CONFIG, epochs=3)
    before = {p.name: p.read_bytes() for p in Path("mine-seed0").iterdir()}
    with pytest.raises(CheckpointError, match="mine-seed0 cannot be continued.*epochs: 2 in the"):
        train([0, 1], Path("mine"), config=other)
    assert {p.name: p.read_bytes() for p in Path("mine-seed0").iterdir()} == before
    assert not Path("mine-seed1").exists()


def test_a_training_stopped_before_its_first_checkpoint_begins_anew():
    folder = Path("mine-seed0")
    folder.mkdir()
    (folder / "config.toml").write_text(CONFIG.to_toml())
    (folder / "history.jsonl").touch()
    assert train([0], Path("mine"))["runs"][0]["steps"] == 8


def test_a_network_that_cannot_be_is_refused_before_the_first_training():
    bad = resolve(dict(dataset="shapes", model="resnet8", max_parameters=10))
    members = members_of({"good": CONFIG, "bad": bad}, None)
    with pytest.raises(UsageError, match="--max-parameters 10"):
        train_group(members, "two", None, {}, str, Callback, "minires")
    assert not Path("runs").exists()
