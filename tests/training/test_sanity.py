"""The checks pass for a sound training, and each finds the mistake it is made for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minires.nn import BatchNorm2d, Dropout
from minires.training import sanity, throwaway
from minires.training.config import TrainConfig
from minires.training.sanity import dead_units, run_checks

CONFIG = TrainConfig(
    dataset="shapes", limit=80, model="resnet8", width=0.5, batch_size=16, lr=0.1, device="cpu",
    threads=1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(sanity, "IMAGES", 16)


@pytest.fixture
def spoil(monkeypatch):
    """Have every model changed by a function before it is checked."""

    def install(change):
        make = throwaway.make_model

        def spoiled(*arguments):
            model = make(*arguments)
            change(model)
            return model

        monkeypatch.setattr(throwaway, "make_model", spoiled)

    return install


def failures(config=CONFIG, steps=60):
    return {check.name: check for check in run_checks(config, steps) if not check.passed}


def test_a_sound_training_passes_everything():
    seen = []
    checks = run_checks(CONFIG, 100, seen.append)
    assert [check.name for check in checks if not check.passed] == []
    assert seen == checks
    assert len({check.name for check in checks}) == 8
    assert all(check.found and check.advice.endswith(".") for check in checks)


def test_dropout_and_label_smoothing_do_not_disturb():
    assert not failures(replace(CONFIG, dropout=0.3, label_smoothing=0.1), 100)


def test_initial_logits_that_are_too_large(spoil):
    def enlarge(model):
        model.fc.weight.data[...] *= 100

    spoil(enlarge)
    assert "initial loss" in failures(steps=1)


def test_a_network_for_imagenet_on_small_images():
    config = replace(CONFIG, model="resnet18", width=0.0625, stem="imagenet")
    found = failures(config, 1)
    assert "1x1 pixels" in found["resolution"].found
    assert "--stem cifar" in found["resolution"].advice


def test_an_exploding_gradient(spoil):
    def enlarge(model):
        model.fc.weight.data[...] *= 1e4

    spoil(enlarge)
    assert "gradient" in failures(steps=1)


def test_a_rate_far_too_low_and_far_too_high():
    low = failures(replace(CONFIG, lr=1e-9))
    assert "update to weight" in low and "raise --lr" in low["update to weight"].advice
    assert "learns 64 images by heart" in low
    high = failures(replace(CONFIG, lr=1e4))
    assert "learns 64 images by heart" in high
    assert "NaN" in high["evaluation mode"].found  # and no word of dropout or running statistics


def test_a_dead_layer_is_named(spoil):
    def kill(model):
        model.layer2[0].bn1.bias.data[...] = -1000

    spoil(kill)
    found = failures(replace(CONFIG, lr=1e-4), steps=1)
    assert "layer2.0.bn1" in found["dead ReLUs"].found
    assert "every parameter learns" in found
    assert "layer2.0" in found["every parameter learns"].found


def test_shares_of_dead_units_are_counted_by_channel(spoil):
    from minires.models import build

    model = build("resnet8", width=0.5)
    model.bn1.bias.data[:2] = -1000  # of 8 channels
    x = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    shares = dead_units(model, x)
    assert shares["bn1"] == 0.25
    assert set(shares) == {"bn1"} | {
        f"layer{n}.0.bn{k}" for n in (1, 2, 3) for k in (1, 2)
    }


def test_dropout_that_stays_on_in_evaluation(monkeypatch):
    def forward(self, x):
        self.step += 1
        y = x * (np.random.default_rng(self.step).random(x.shape) < 0.5).astype(np.float32)
        self._store(None)
        return y

    monkeypatch.setattr(Dropout, "forward", forward)
    monkeypatch.setattr(Dropout, "backward", lambda self, grad: grad)
    found = failures(replace(CONFIG, dropout=0.5), 1)["evaluation mode"]
    assert "other logits the second time" in found.found


def test_batch_norm_that_uses_the_batch_in_evaluation(spoil):
    def keep_training(model):
        evaluate = model.eval

        def eval_but_batch_norm():
            evaluate()
            for module in model.modules():
                if isinstance(module, BatchNorm2d):
                    module.training = True
            return model

        model.eval = eval_but_batch_norm

    spoil(keep_training)
    found = failures(steps=1)["evaluation mode"].found
    assert "depend on the others" in found and "running statistics" in found
