"""Trainings have the kernels of a GPU checked before they begin."""

from __future__ import annotations

import pytest

from minires.training import runner, throwaway
from minires.training.config import TrainConfig
from minires.training.loop import Callback

TINY = {
    "dataset": "shapes", "limit": 96, "model": "resnet8", "width": 0.25, "batch_size": 16,
    "epochs": 2, "device": "cpu", "threads": 1, "val_split": 16,
}  # fmt: skip


class Fail(Callback):
    """Ends the training after its first epoch."""

    def on_epoch(self, trainer, metrics):
        raise ZeroDivisionError


def test_a_training_begins_with_the_check_and_so_does_its_continuation(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "check_kernels", lambda device, say: say(f"checked {device}"))
    lines = []
    with pytest.raises(ZeroDivisionError):
        runner.start(TrainConfig(**TINY), tmp_path / "run", lines.append, callbacks=[Fail()])
    assert lines[0] == "checked cpu"
    lines.clear()
    runner.resume(tmp_path / "run", say=lines.append)
    assert lines[0] == "checked cpu"


def test_what_is_tried_on_a_throwaway_model_too(monkeypatch, capsys):
    monkeypatch.setattr(throwaway, "check_kernels", lambda device, say: say(f"checked {device}"))
    throwaway.Throwaway(TrainConfig(**TINY))
    assert capsys.readouterr() == ("", "checked cpu\n")
