"""However a training ends, its folder offers the weights that did best on the validation."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from minires.errors import DivergedError, Interrupted
from minires.training.history import read_history
from minires.training.loop import Callback
from minires.training.measure import measure
from minires.training.resolve import resolve
from minires.training.runner import start

OPTIONS = dict(dataset="shapes", limit=120, model="resnet8", width=0.5, epochs=4, batch_size=16)
OPTIONS |= dict(val_split=40, device="cpu", threads=1, lr=0.1)  # 5 steps an epoch


class CtrlC(Callback):
    """Ctrl-C in the middle of the last epoch."""

    def on_step(self, trainer):
        if trainer.state.step == 17:
            os.kill(os.getpid(), signal.SIGINT)


class Poison(Callback):
    """A weight that is not a number, in the middle of the last epoch."""

    def on_step(self, trainer):
        if trainer.state.step == 17:
            next(iter(trainer.model.named_parameters()))[1].data[...] = np.nan


@pytest.mark.parametrize(
    ("more", "callback", "error"),
    [
        ({}, None, None),
        ({}, CtrlC, Interrupted),
        ({}, Poison, DivergedError),
        ({"patience": 1, "ema": 0.9}, None, None),
        ({"ema": 0.9}, CtrlC, Interrupted),
    ],
)
def test_the_best_weights_are_there(tmp_path, monkeypatch, more, callback, error):
    monkeypatch.delenv("MINIRES_DATA", raising=False)
    run = tmp_path / "run"
    train = [resolve(OPTIONS | more), run, str, callback() if callback else None]
    if error is None:
        start(*train)
    else:
        with pytest.raises(error):
            start(*train)
    epochs = read_history(run / "history.jsonl", "epoch")
    best = max(epochs, key=lambda epoch: epoch["val_accuracy"])  # the first of equals
    assert len(epochs) == 3 if error else len(epochs) <= 4
    found = measure(run, split="val", device="cpu")
    assert found.accuracy == best["val_accuracy"]
    assert found.loss == pytest.approx(best["val_loss"], rel=1e-5)
