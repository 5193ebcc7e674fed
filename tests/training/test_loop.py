"""The loop, with a tiny network and batches from a plain array."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from minires.backend import CPU, Device
from minires.errors import DivergedError, Interrupted
from minires.kernels.cuda import runtime
from minires.models import build
from minires.nn import CrossEntropyLoss, Module
from minires.optim import SGD, WeightAverage
from minires.training import loop
from minires.training.callbacks import LogHistory
from minires.training.evaluate import evaluate
from minires.training.loop import Callback, Trainer, TrainState
from minires.training.step import TrainingStep

STEPS, BATCH = 3, 4


class ArrayLoader:
    """Batches of random images with fixed labels; epoch `poison` holds a NaN in its 2nd batch."""

    batch_size = BATCH

    def __init__(self, steps=STEPS, poison=None):
        self.steps = steps
        self.poison = poison

    def __len__(self):
        return self.steps

    def epoch(self, epoch, start_batch=0):
        for batch in range(start_batch, self.steps):
            rng = np.random.default_rng((epoch, batch))
            x = rng.standard_normal((BATCH, 3, 32, 32)).astype(np.float32)
            if epoch == self.poison and batch == 1:
                x[0, 0, 0, 0] = np.nan
            yield x, rng.integers(0, 10, BATCH)


class Recorder(Callback):
    def __init__(self):
        self.events = []
        self.metrics = []

    def on_start(self, trainer):
        self.events.append("start")

    def on_step(self, trainer):
        self.events.append(("step", trainer.state.step))

    def on_epoch(self, trainer, metrics):
        self.events.append(("epoch", metrics["epoch"]))
        self.metrics.append(metrics)

    def on_interrupt(self, trainer):
        self.events.append("interrupt")

    def close(self):
        self.events.append("close")


def make_trainer(epochs=2, callbacks=(), poison=None, state=None, val=True):
    model = build("resnet8", width=0.25, seed=1)
    return Trainer(
        model=model,
        optimizer=SGD(model.named_parameters()),
        schedule=lambda step: 0.01 * (step + 1),
        train_loader=ArrayLoader(poison=poison),
        val_loader=ArrayLoader(steps=2) if val else None,
        num_classes=10,
        epochs=epochs,
        device=CPU,
        state=state,
        callbacks=callbacks,
    )


def test_callbacks_are_called_in_the_order_of_the_training():
    recorder = Recorder()
    make_trainer(callbacks=[recorder]).fit()
    assert recorder.events == [
        "start",
        *[("step", s) for s in (1, 2, 3)],
        ("epoch", 1),
        *[("step", s) for s in (4, 5, 6)],
        ("epoch", 2),
        "close",
    ]


class IndexLoader(ArrayLoader):
    """Six images in batches of four, as a graph gets them; the last one is smaller."""

    def __len__(self):
        return 2

    def index_batches(self, epoch, start_batch=0):
        return iter([np.arange(4), np.arange(4, 6)][start_batch:])

    def batch(self, indices, epoch):
        rng = np.random.default_rng(epoch)
        x = rng.standard_normal((6, 3, 32, 32)).astype(np.float32)
        return x[indices], rng.integers(0, 10, 6)[indices]


def test_a_graph_is_given_the_images_of_a_batch_and_the_epoch():
    ran, recorder = [], Recorder()
    trainer = make_trainer(callbacks=[recorder], val=False)
    trainer.train_loader, trainer.total_steps = IndexLoader(), 4
    trainer.graphed = SimpleNamespace(
        fits=lambda indices: len(indices) == 4,
        run=lambda indices, epoch, step, *numbers: ran.append((indices.tolist(), epoch, step)),
    )
    trainer.fit()
    assert ran == [([0, 1, 2, 3], 0, 0), ([0, 1, 2, 3], 1, 2)]
    assert trainer.state.step == 4 and trainer.state.images == 12
    assert all(metrics["train_loss"] > 0 for metrics in recorder.metrics), "two images op by op"


def test_the_steps_are_those_written_out_by_hand():
    trainer = make_trainer(epochs=1, val=False)
    model = build("resnet8", width=0.25, seed=1)
    optimizer, criterion = SGD(model.named_parameters()), CrossEntropyLoss()
    losses, hits = [], 0
    for step, (x, labels) in enumerate(ArrayLoader().epoch(0)):
        optimizer.zero_grad()
        logits = model.forward(x)
        losses.append(float(criterion.forward(logits, labels)))
        model.backward(criterion.backward())
        optimizer.step(0.01 * (step + 1))
        hits += int((logits.argmax(axis=1) == labels).sum())

    recorder = Recorder()
    trainer.callbacks = [recorder]
    trainer.fit()
    metrics = recorder.metrics[0]
    assert metrics["train_loss"] == pytest.approx(np.mean(losses), rel=1e-12)
    assert metrics["train_accuracy"] == hits / (STEPS * BATCH)
    assert metrics["lr"] == 0.03
    assert metrics["val_accuracy"] is None
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, trainer.model.state_dict()[name], err_msg=name)


def test_a_line_of_the_log_is_the_mean_since_the_line_before_or_since_the_epoch_began():
    losses, hits, norms = [], [], []
    model = build("resnet8", width=0.25, seed=1)
    optimizer, criterion = SGD(model.named_parameters()), CrossEntropyLoss()
    for step, (x, labels) in enumerate([*ArrayLoader().epoch(0), *ArrayLoader().epoch(1)]):
        optimizer.zero_grad()
        logits = model.forward(x)
        losses.append(float(criterion.forward(logits, labels)))
        hits.append((logits.argmax(axis=1) == labels).mean())
        model.backward(criterion.backward())
        squares = [(p.grad.astype(np.float64) ** 2).sum() for _, p in model.named_parameters()]
        norms.append(sum(squares) ** 0.5)
        optimizer.step(0.01 * (step + 1))

    class Lines(list):
        def close(self):
            pass

    lines = Lines()
    trainer = make_trainer(callbacks=[LogHistory(lines, log_every=2)], val=False)
    trainer.work.clip_norm = 1e9
    trainer.fit()
    steps = [line for line in lines if line["kind"] == "step"]
    for line, first, last in zip(steps, (1, 4, 5), (2, 4, 6), strict=True):
        assert (line["step"], line["progress"]) == (last, last / STEPS)
        assert line["lr"] == pytest.approx(0.01 * last)
        assert line["loss"] == pytest.approx(np.mean(losses[first - 1 : last]), rel=1e-6)
        assert line["accuracy"] == pytest.approx(np.mean(hits[first - 1 : last]))
        assert line["gradient_norm"] == pytest.approx(norms[last - 1], rel=1e-5)
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [(line["epoch"], line["step"], line["progress"]) for line in epochs] == [
        (1, 3, 1.0),
        (2, 6, 2.0),
    ]


def test_validation_uses_running_statistics_and_leaves_the_model_training():
    trainer = make_trainer(epochs=1)
    recorder = Recorder()
    trainer.callbacks = [recorder]
    trainer.fit()
    before = trainer.model.state_dict()
    assert trainer.model.training
    again = evaluate(trainer.model, ArrayLoader(steps=2), 10)
    assert recorder.metrics[0]["val_loss"] == again.loss
    assert again.images == 2 * BATCH == again.counts.sum()
    for name, values in before.items():
        np.testing.assert_array_equal(values, trainer.model.state_dict()[name], err_msg=name)


def test_the_average_takes_in_the_weights_after_each_update_counted_from_one():
    trainer = make_trainer(val=False)
    trainer.average = trainer.work.average = WeightAverage(trainer.model, trainer.optimizer, 0.3)
    expected = {n: p.data.copy() for n, p in trainer.model.named_parameters()}

    class Follow(Callback):
        def on_step(self, trainer):
            t = trainer.state.step
            for name, parameter in trainer.model.named_parameters():
                decay = min(0.3, (1 + t) / (10 + t))  # 2/11, 3/12, 0.3, ...
                expected[name] += (1 - decay) * (parameter.data - expected[name])

    trainer.callbacks = [Follow()]
    trainer.fit()
    with trainer.averaged():
        for name, parameter in trainer.model.named_parameters():
            np.testing.assert_allclose(parameter.data, expected[name], atol=1e-6, err_msg=name)


def test_a_step_clips_nothing_unless_asked():
    model = build("resnet8", width=0.25)
    optimizer = SGD(model.named_parameters(), momentum=0.0, nesterov=False, weight_decay=0.0)
    work = TrainingStep(model, CrossEntropyLoss(), optimizer)
    before = {name: parameter.data.copy() for name, parameter in model.named_parameters()}
    for _, parameter in model.named_parameters():
        parameter.accumulate(np.full(parameter.shape, 100, np.float32))
    work.update(0.5)
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.data, before[name] - 50, err_msg=name)


def test_the_best_epoch_is_the_first_of_equals(monkeypatch):
    accuracies = iter([0.5, 0.6, 0.6, 0.4])
    result = lambda *_: SimpleNamespace(loss=1.0, accuracy=next(accuracies))  # noqa: E731
    monkeypatch.setattr(loop, "evaluate", result)
    recorder = Recorder()
    trainer = make_trainer(epochs=4, callbacks=[recorder])
    trainer.fit()
    assert [metrics["best"] for metrics in recorder.metrics] == [True, True, False, False]
    assert (trainer.state.best_epoch, trainer.state.best_val_accuracy) == (2, 0.6)


def test_without_validation_no_epoch_is_called_the_best():
    recorder = Recorder()
    trainer = make_trainer(callbacks=[recorder], val=False)
    trainer.fit()
    assert [metrics["best"] for metrics in recorder.metrics] == [False, False]
    assert trainer.state.best_epoch is None


def test_the_speed_counts_the_steps_and_the_time_everything_since_the_start(monkeypatch):
    clock = [5.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    class Slow(ArrayLoader):
        """Each batch takes `seconds` to come."""

        def __init__(self, steps, seconds):
            super().__init__(steps)
            self.seconds = seconds

        def epoch(self, epoch, start_batch=0):
            for batch in super().epoch(epoch, start_batch):
                clock[0] += self.seconds
                yield batch

    recorder = Recorder()
    trainer = make_trainer(callbacks=[recorder])
    trainer.train_loader, trainer.val_loader = Slow(STEPS, 2), Slow(2, 100)
    clock[0] += 1000  # what comes before the training is not counted
    trainer.fit()
    assert trainer.state.train_seconds == 2 * STEPS * 2
    assert [metrics["seconds"] for metrics in recorder.metrics] == [206, 412]
    assert [metrics["images_per_second"] for metrics in recorder.metrics] == [BATCH / 2] * 2


def test_evaluation_counts_by_class():
    class Fixed(Module):
        def forward(self, x):
            assert not self.training
            return np.eye(3, dtype=np.float32)[[0, 1, 1, 1]] * 20

    class Loader:
        batch_size = 8

        def __len__(self):
            return 1

        def epoch(self, epoch):
            yield np.zeros((4, 1)), np.array([0, 0, 1, 2])

    result = evaluate(Fixed(), Loader(), 3)
    assert result.accuracy == 0.5
    assert result.loss == pytest.approx(10.0, abs=1e-6)  # two right (0), two wrong by 20
    rows = result.per_class(("a", "b", "c"))
    assert [(r["name"], r["images"], r["correct"]) for r in rows] == [
        ("a", 2, 1),
        ("b", 1, 1),
        ("c", 1, 0),
    ]


def test_nan_stops_before_the_update_and_names_step_rate_and_gradient():
    recorder = Recorder()
    trainer = make_trainer(callbacks=[recorder], poison=1)
    weights = {}

    class Keep(Callback):
        def on_step(self, trainer):
            weights.update({n: p.data.copy() for n, p in trainer.model.named_parameters()})

    trainer.callbacks.append(Keep())
    with pytest.raises(DivergedError, match="loss is nan at step 5, learning rate 0.05, gradient"):
        trainer.fit()
    assert recorder.events[-2:] == [("step", 4), "close"]
    for name, parameter in trainer.model.named_parameters():
        np.testing.assert_array_equal(parameter.data, weights[name], err_msg=name)


def test_a_gpu_is_asked_for_its_losses_late_but_before_anything_is_kept():
    """NumPy stands in for the GPU: the loop looks at the kind of the device alone."""
    trainer = make_trainer(poison=0)
    trainer.device = Device("gpu")
    reached = Recorder()
    trainer.callbacks = [reached]
    stream = SimpleNamespace(own_stream=nullcontext)
    with runtime.use(stream), pytest.raises(DivergedError, match="at or before step 3"):
        trainer.fit()
    assert ("step", 3) in reached.events  # the NaN of step 2 was not waited for
    with pytest.raises(DivergedError):
        trainer.checked_weights()


def test_weights_that_are_not_finite_are_never_handed_out():
    trainer = make_trainer()
    assert trainer.checked_weights()
    next(iter(trainer.model.named_parameters()))[1].data[0, 0, 0, 0] = np.inf
    with pytest.raises(DivergedError, match="conv1.weight"):
        trainer.checked_weights()


class StopAt(Callback):
    """Acts like a signal that comes in the middle of step `step` or of a validation."""

    def __init__(self, step=None, in_validation=False):
        self.step = step
        self.in_validation = in_validation

    def on_step(self, trainer):
        if trainer.state.step == self.step:
            trainer.interrupt._handle(15, None)

    def on_evaluate(self, trainer, done, batches):
        if self.in_validation:
            trainer.interrupt._handle(15, None)


@pytest.mark.parametrize("stop", [StopAt(step=1), StopAt(step=4), StopAt(in_validation=True)])
def test_a_stopped_training_continues_bit_for_bit(stop):
    whole = Recorder()
    reference = make_trainer(callbacks=[whole])
    reference.fit()

    first, rest = Recorder(), Recorder()
    stopped = make_trainer(callbacks=[stop, first])
    with pytest.raises(Interrupted) as caught:
        stopped.fit()
    assert caught.value.exit_code == 143
    assert f"after step {stopped.state.step} of {2 * STEPS}, saved" in str(caught.value)
    assert first.events[-2:] == ["interrupt", "close"]

    state = TrainState(**stopped.read_sums().to_dict())
    resumed = make_trainer(callbacks=[rest], state=state)
    resumed.model.load_state_dict(stopped.checked_weights())
    resumed.optimizer.load_state_dict(stopped.optimizer.state_dict())
    resumed.fit()
    for name, values in reference.model.state_dict().items():
        np.testing.assert_array_equal(values, resumed.model.state_dict()[name], err_msg=name)
    timeless = [
        [{k: v for k, v in m.items() if "second" not in k} for m in recorder.metrics]
        for recorder in (whole, first, rest)
    ]
    assert timeless[0] == timeless[1] + timeless[2]
