"""Trainings with every option: resumed bit for bit, stopped early, averaged, mirrored.

They run inside this process through the runner, on a few built-in images.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import numpy as np
import pytest

from minires.backend import Device
from minires.devices import can_fork
from minires.errors import Interrupted, UsageError
from minires.models import build
from minires.optim import SGD, WeightAverage, gradient_norm
from minires.training import runner, training
from minires.training.checkpoint import load_checkpoint, restore_model
from minires.training.config import TrainConfig
from minires.training.evaluate import evaluate
from minires.training.history import read_history
from minires.training.loop import Callback, Trainer
from minires.training.measure import measure
from minires.training.setup import make_optimizer

# 3 epochs of 4 steps: 72 of 80 images to train on, in batches of 16.
TINY = dict(
    dataset="shapes", limit=80, model="resnet8", width=0.25, epochs=3, batch_size=16,
    device="cpu", threads=1, save_every=3, log_every=2, lr=0.05,
)  # fmt: skip


class StopAfter(Callback):
    """Acts like a signal after step `step`."""

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer):
        if trainer.state.step == self.step:
            trainer.interrupt._handle(15, None)


def train(path, progress=None, **options):
    said = []
    result = runner.start(TrainConfig(**TINY | options), path, said.append, progress)
    return result, said


def tensors(path):
    checkpoint = load_checkpoint(path)
    return {**checkpoint.model, **{f"o.{k}": v for k, v in checkpoint.optimizer.items()}}


def log(folder):
    return [
        {k: v for k, v in record.items() if "second" not in k}
        for record in read_history(folder / "history.jsonl")
    ]


CASES = {
    "adam, one-cycle, clipping, averaging": dict(
        optimizer="adam", lr=0.01, cycle_momentum=True, clip_norm=0.5, clip_value=0.1, ema=0.9,
        decay_all=False,
    ),
    "adamw, restarts, every augmentation": dict(
        optimizer="adamw", lr=0.01, schedule="cosine-restarts", cycles=2, color_jitter=0.2,
        cutout=8, mixup=0.4, cutmix=1.0, mix_share=0.8, label_smoothing=0.1, dropout=0.2,
    ),
    "rmsprop, plateau": dict(
        optimizer="rmsprop", lr=0.001, rms_momentum=0.9, rms_centered=True, schedule="plateau",
        plateau_patience=0, body_lr_factor=0.1, tta=True,
    ),
    "sgd, linear one-cycle": dict(
        cycle_momentum=True, cycle_shape="linear", ema=0.99, patience=9, clip_norm=1.0
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed_is_the_same_run(tmp_path, case):
    options = CASES[case]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected, _ = train(whole, **options)
    with pytest.raises(Interrupted):
        train(parts, StopAfter(3), **options)
    with pytest.raises(Interrupted):
        runner.resume(parts, say=lambda line: None, progress=StopAfter(10))
    result = runner.resume(parts, say=lambda line: None)
    for name in ("last.safetensors", "best.safetensors"):
        ours, theirs = tensors(parts / name), tensors(whole / name)
        assert ours.keys() == theirs.keys()
        for key, values in theirs.items():
            assert ours[key].tobytes() == values.tobytes(), f"{name}: {key}"
    assert log(parts) == log(whole)
    assert result["test_accuracy"] == expected["test_accuracy"]
    assert result["test_loss"] == expected["test_loss"]
    steps = [r for r in log(whole) if r["kind"] == "step"]
    assert all(("gradient_norm" in r) == ("clip_norm" in options) for r in steps)
    assert all(np.isfinite(r["loss"]) for r in steps)


def test_a_plateau_lowers_the_rate_of_the_epochs_that_follow(tmp_path):
    train(tmp_path / "run", schedule="plateau", plateau_patience=0, epochs=6, lr=2.0, gamma=0.5)
    epochs = read_history(tmp_path / "run/history.jsonl", "epoch")
    rate, best = 2.0, None
    for record in epochs:
        assert record["lr"] == rate
        if best is None or record["val_loss"] < best * (1 - 1e-4):
            best = record["val_loss"]
        else:
            rate *= 0.5
    assert rate < 2.0, "this rate is far too high: the loss must have risen once"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_estimate_leaves_a_run_to_continue(tmp_path, monkeypatch, number):
    def interrupted(*arguments):
        os.kill(os.getpid(), number)
        return estimate(*arguments)

    path = tmp_path / "run"
    estimate = training.estimate
    monkeypatch.setattr(training, "estimate", interrupted)
    with pytest.raises(Interrupted, match="after step 0 of 12, saved; to continue") as stop:
        train(path)
    assert stop.value.exit_code == 128 + number
    monkeypatch.setattr(training, "estimate", estimate)
    assert runner.resume(path, say=lambda line: None)["steps"] == 12
    train(tmp_path / "whole")
    assert log(path) == log(tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="names of files are text there")
def test_a_folder_whose_name_is_no_text_gets_its_picture_and_result(tmp_path):
    path = tmp_path / os.fsdecode(b"run \xff")
    result, _ = train(path, epochs=1)
    assert result["epochs"] == 1
    assert (path / "result.json").exists() and (path / "curves.png").exists()


def test_a_finished_run_names_the_epochs_that_it_made(tmp_path):
    train(tmp_path / "run", epochs=30, patience=1, lr=1e-9, schedule="constant")
    made = len(read_history(tmp_path / "run/history.jsonl", "epoch"))
    said = []
    runner.resume(tmp_path / "run", say=said.append)
    assert made < 30 and f"is finished already: {made} epochs" in said[-1]


# --- stopping early -------------------------------------------------------------------------


def test_patience_ends_the_training_and_the_best_weights_are_tested(tmp_path):
    path = tmp_path / "run"
    result, said = train(path, epochs=30, patience=2, lr=1e-9, schedule="constant")
    epochs = read_history(path / "history.jsonl", "epoch")
    best = max(epochs, key=lambda r: (r["val_accuracy"], -r["epoch"]))
    assert result["stopped_early"] is True
    assert result["epochs"] == len(epochs) == best["epoch"] + 2 < 30
    assert result["best_epoch"] == best["epoch"]
    assert result["test_checkpoint"] == "best"
    (stop,) = read_history(path / "history.jsonl", "stop")
    assert (stop["epoch"], stop["best_epoch"]) == (result["epochs"], best["epoch"])
    assert any(f"stopped after epoch {result['epochs']} of 30" in line for line in said)
    assert measure(path, device="cpu").accuracy == result["test_accuracy"]
    assert json.loads((path / "result.json").read_text())["stopped_early"] is True
    assert runner.resume(path, say=said.append)["stopped_early"] is True


def test_a_whole_training_was_not_stopped(tmp_path):
    result, _ = train(tmp_path / "run", epochs=1, patience=1)
    assert result["stopped_early"] is False


class Enough(Callback):
    """Asks the training to end after an epoch."""

    def on_epoch(self, trainer, metrics):
        if metrics["epoch"] == 2:
            trainer.stop("enough")


def test_a_callback_ends_the_training_as_if_it_were_whole(tmp_path):
    path = tmp_path / "run"
    result, said = train(path, Enough(), epochs=30)
    assert (result["epochs"], result["stop_reason"]) == (2, "enough")
    assert read_history(path / "history.jsonl", "stop")[0]["reason"] == "enough"
    assert "stopped after epoch 2 of 30: enough" in said
    assert load_checkpoint(path / "last.safetensors").epoch == 2
    assert measure(path, device="cpu").accuracy == result["test_accuracy"]


# --- the average ----------------------------------------------------------------------------


def test_the_average_is_validated_saved_as_best_and_tested(tmp_path):
    path = tmp_path / "run"
    averages, weights = {}, {}

    class Watch(Callback):
        def on_epoch(self, trainer, metrics):
            if metrics["best"]:
                averages.update(trainer.average.state_dict())
                weights.update(trainer.model.state_dict())
                with trainer.averaged():
                    again = evaluate(trainer.model, trainer.val_loader, 10)
                assert again.loss == metrics["val_loss"]

    result, _ = train(path, Watch(), ema=0.95)
    best = load_checkpoint(path / "best.safetensors")
    for name, values in best.model.items():
        if values.ndim:
            np.testing.assert_array_equal(values, averages[f"average.{name}"])
            assert (values != weights[name]).any()
    assert measure(path, device="cpu").accuracy == result["test_accuracy"]


def test_without_validation_the_last_average_is_tested_and_evaluated(tmp_path):
    path = tmp_path / "run"
    result, _ = train(path, ema=0.95, val_split=0.0)
    assert result["test_checkpoint"] == "last"
    again = measure(path, device="cpu", batch_size=16)
    assert again.accuracy == result["test_accuracy"]
    assert again.loss == pytest.approx(result["test_loss"], rel=1e-5)
    last = load_checkpoint(path / "last.safetensors")
    model = restore_model(last, path).state_dict()
    averaged = last.optimizer["average.fc.weight"]
    np.testing.assert_array_equal(model["fc.weight"], averaged)
    assert (last.model["fc.weight"] != averaged).any()


# --- the mirror -----------------------------------------------------------------------------


def test_tta_is_the_mean_of_the_logits_of_image_and_mirror():
    model = build("resnet8", width=0.25, seed=3)
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(20, 3, 32, 32)).astype(np.float32), rng.integers(0, 10, 20)

    class Loader:
        batch_size = 8

        def __len__(self):
            return 1

        def epoch(self, epoch):
            yield x, labels

    model.eval()
    logits = (model(x).astype(np.float64) + model(np.flip(x, axis=3).copy())) / 2
    log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    result = evaluate(model, Loader(), 10, tta=True)
    assert result.loss == pytest.approx(-log_shares[np.arange(20), labels].mean(), rel=1e-5)
    assert result.accuracy == (logits.argmax(axis=1) == labels).mean()
    assert result.loss != evaluate(model, Loader(), 10).loss


def test_evaluate_mirrors_as_the_run_does_unless_told_otherwise(tmp_path):
    path = tmp_path / "run"
    result, _ = train(path, tta=True, epochs=1)
    own = measure(path, device="cpu", batch_size=16)
    assert own.tta and own.loss == pytest.approx(result["test_loss"], rel=1e-5)
    plain = measure(path, device="cpu", batch_size=16, tta=False)
    assert not plain.tta and plain.loss != own.loss


# --- one step -------------------------------------------------------------------------------


def one_batch_trainer(labels, **options):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 3, 32, 32)).astype(np.float32)

    class Loader:
        batch_size = 8

        def __len__(self):
            return 1

        def epoch(self, epoch, start_batch=0):
            yield x, labels

    model = build("resnet8", width=0.25, seed=1)
    optimizer = SGD(model.named_parameters(), momentum=0.0, nesterov=False, weight_decay=0.0)
    average = WeightAverage(model, optimizer, 0.5) if options.pop("ema", None) else None
    return Trainer(
        model=model, optimizer=optimizer, schedule=lambda step: 1.0, train_loader=Loader(),
        val_loader=None, num_classes=10, epochs=1, device=Device("cpu"), average=average, **options,
    )  # fmt: skip


def test_a_clipped_step_has_the_length_of_the_limit():
    labels = np.arange(8)
    trainer = one_batch_trainer(labels, clip_norm=0.01)
    before = trainer.model.state_dict()
    trainer.fit()
    after = {name: p.data for name, p in trainer.model.named_parameters()}
    squares = sum(((values - before[name]) ** 2).sum() for name, values in after.items())
    assert squares**0.5 == pytest.approx(0.01, rel=1e-3)
    assert float(trainer.gradient_norm) > 0.1
    free = one_batch_trainer(labels, clip_value=1e-3)
    free.fit()
    assert float(gradient_norm(free.optimizer)) < 0.01 * 200
    assert max(abs(g.grads).max() for g in free.optimizer.groups) <= np.float32(1e-3)


def test_accuracy_of_a_mix_is_that_of_its_dominant_class():
    labels = np.arange(8)
    shares = np.full((8, 10), 0.3 / 9, np.float32)
    shares[np.arange(8), labels] = 0.7
    metrics = []

    class Record(Callback):
        def on_epoch(self, trainer, record):
            metrics.append(record["train_accuracy"])

    for given in (labels, shares):
        trainer = one_batch_trainer(given)
        trainer.callbacks = [Record()]
        trainer.fit()
    assert metrics[0] == metrics[1]


def test_the_body_learns_at_its_own_rate():
    model = build("resnet8", width=0.25)
    optimizer = make_optimizer(TrainConfig(body_lr_factor=0.01, decay_all=False), model)
    by_name = {
        name: factor
        for group, factor in zip(optimizer.groups, optimizer.lr_factors, strict=True)
        for name in group.names
    }
    assert {n for n, factor in by_name.items() if factor == 1} == {"fc.weight", "fc.bias"}
    assert {factor for n, factor in by_name.items() if not n.startswith("fc.")} == {0.01}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(cycle_momentum=True, schedule="cosine"), "--cycle-momentum: .*one-cycle"),
        (dict(cycle_momentum=True, optimizer="rmsprop"), "--cycle-momentum: .*adam"),
        (dict(schedule="plateau", val_split=0.0), "--schedule plateau: needs a validation"),
        (dict(patience=3, val_split=0.0), "--patience: needs a validation"),
    ],
)
def test_options_that_do_not_go_together(options, words):
    with pytest.raises(UsageError, match=words):
        TrainConfig(**options)


@pytest.mark.skipif(not can_fork(), reason="a process that computes cannot be forked")
@pytest.mark.parametrize("refused, processes", [(False, 2), (True, 1)])
def test_the_result_says_how_many_processes_there_were(tmp_path, monkeypatch, refused, processes):
    def refuse():
        raise BlockingIOError("Resource temporarily unavailable")

    if refused:
        monkeypatch.setattr(os, "fork", refuse)
    result, _ = train(tmp_path / "run", batch_size=64, threads=2, epochs=1)
    assert result["processes"] == processes
