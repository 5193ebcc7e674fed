"""The training loop.

One step is: batch, forward, loss, backward, update. All that is not mathematics (the log, the
checkpoints, the progress bar, the picture) hangs on the loop as callbacks, called in list order.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minires.backend import Array, Device, cuda_module, to_device, to_host
from minires.errors import DivergedError
from minires.nn import CrossEntropyLoss, Module
from minires.optim import LossScaler, Optimizer, WeightAverage
from minires.optim.schedules import Plateau, PlateauState, Schedule
from minires.training.data_parallel import DataParallel
from minires.training.evaluate import evaluate
from minires.training.graph import GraphedStep
from minires.training.interrupt import InterruptGuard
from minires.training.step import TrainingStep

if TYPE_CHECKING:
    from minires.data import Loader

GPU_CHECK_EVERY = 50
"""On a GPU, reading the loss waits for the device: it is checked for NaN every so many steps."""


@dataclass
class TrainState:
    """Where a training stands; together with weights and velocities, all that a resume needs.

    `step` counts updates; `epoch` and `batch` name the next batch. `loss_sum`, `correct` and `seen`
    add up over the images of the epoch so far; the `logged_` ones are their values at the last line
    of the log. The `plateau_` ones are an `optim.schedules.PlateauState`. `train_seconds` leaves
    out evaluation, `seconds` has everything.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    logged_loss_sum: float = 0.0
    logged_correct: int = 0
    logged_seen: int = 0
    images: int = 0
    val_accuracy: float | None = None
    best_val_accuracy: float | None = None
    best_epoch: int | None = None
    plateau_rate: float = 1.0
    plateau_best: float | None = None
    plateau_waited: int = 0
    train_seconds: float = 0.0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON holds them exactly."""
        return asdict(self)


class Callback:
    """Something that happens beside the mathematics; each method may be left out."""

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step of this process."""

    def on_step(self, trainer: Trainer) -> None:
        """After each update."""

    def on_evaluate(self, trainer: Trainer, done: int, batches: int) -> None:
        """After each batch of the validation."""

    def on_epoch(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """After each epoch and its validation; `metrics` is the line of the log."""

    def on_interrupt(self, trainer: Trainer) -> None:
        """A signal has arrived and the step is finished."""

    def close(self) -> None:
        """At the end, however it came."""


class Trainer:
    """A model, what it learns from, and how far it has come.

    `train_loader` and `val_loader` yield (x (B, 3, 32, 32) float32, labels (B,) int64, or shares of
    the classes (B, K)); a graph needs the other methods of `data.Loader` too. `val_loader` is None
    where nothing is held out. `momentum` is a function of the step. `average` is kept up to date,
    validated instead of the weights, and saved as `best`; `scaler` scales the loss of a training in
    float16.
    `clip_norm` and `clip_value` of 0 clip nothing; `patience` of 0 never stops early; `tta`
    validates on the mean of each image and its mirror. `graph` runs the steps on a GPU as a graph;
    `say` is told in a line where that cannot be.
    """

    def __init__(
        self,
        *,
        model: Module,
        optimizer: Optimizer,
        schedule: Schedule,
        train_loader: Loader,
        val_loader: Loader | None,
        num_classes: int,
        epochs: int,
        device: Device,
        label_smoothing: float = 0.0,
        state: TrainState | None = None,
        callbacks: Sequence[Callback] = (),
        momentum: Schedule | None = None,
        plateau: Plateau | None = None,
        average: WeightAverage | None = None,
        scaler: LossScaler | None = None,
        clip_norm: float = 0.0,
        clip_value: float = 0.0,
        patience: int = 0,
        tta: bool = False,
        graph: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.train_loader = train_loader
        self.val_loader = val_loader
        self.num_classes = num_classes
        self.epochs = epochs
        self.device = device
        self.scaler = scaler
        self.network = DataParallel(model, train_loader.batch_size)
        self.work = TrainingStep(
            self.network,
            CrossEntropyLoss(label_smoothing),
            optimizer,
            scaler,
            average,
            clip_norm,
            clip_value,
        )
        self.state = state or TrainState()
        self.callbacks = list(callbacks)
        self.momentum = momentum
        self.plateau = plateau
        self.average = average
        self.patience = patience
        self.tta = tta
        self._asked_to_stop: str | None = None
        self.steps_per_epoch = len(train_loader)
        self.total_steps = epochs * self.steps_per_epoch
        self.lr = self._rate(max(self.state.step - 1, 0))  # of the last step done
        sums = np.array([self.state.loss_sum, self.state.correct], np.float64)
        self._totals = to_device(sums, device)  # of this epoch so far
        self.use_graph, self.say = graph, say
        self.graphed: GraphedStep | None = None
        self._clock = self._train_clock = time.monotonic()

    # --- the loop ---------------------------------------------------------------------------

    def fit(self) -> None:
        """Train until the last epoch, or until `patience` is at its end.

        Raises `DivergedError` when the loss is NaN or infinite, before the update, and
        `Interrupted` after a signal, once the callbacks have saved the state.
        """
        self._clock = time.monotonic()
        with InterruptGuard() as interrupt, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # overflow: the loss is checked instead
            self.interrupt = interrupt
            try:
                self._call("on_start")
                self._stop_if_asked()
                self._clock = time.monotonic()  # what came before the first step is no training
                self._fit()
            except _Stop:
                self._call("on_interrupt")
                where = f"stopped after step {self.state.step} of {self.total_steps}, saved"
                raise interrupt.error(where) from None
            finally:
                self.network.close()
                for callback in self.callbacks:
                    callback.close()

    def _fit(self) -> None:
        """All epochs; on a GPU on a stream of its own, which a graph needs."""
        on_gpu = self.device.kind == "gpu"
        with cuda_module("runtime").current().own_stream() if on_gpu else nullcontext():
            if on_gpu and self.use_graph:
                self.graphed = GraphedStep(
                    self.work, self.device, self._totals, self.say, self.train_loader.batch
                )
            while self.state.epoch < self.epochs and self.stop_reason is None:
                self._train_epoch()
                self._end_epoch()

    def _train_epoch(self) -> None:
        """The steps of this epoch that are still to do."""
        state = self.state
        self.network.train()
        self._train_clock = time.monotonic()
        loader = self.train_loader
        batches = loader.epoch if self.graphed is None else loader.index_batches
        for batch in batches(state.epoch, start_batch=state.batch):
            images = self._step(batch)
            state.step += 1
            state.batch += 1
            state.seen += images
            state.images += images
            self._count_train_seconds()
            self._call("on_step")
            self._stop_if_asked()
        self.read_sums()  # waits for a GPU, so that its time counts as training
        self._count_train_seconds()

    def _step(self, batch: Array | tuple[Array, Array]) -> int:
        """One update from a batch x (B, 3, 32, 32), labels (B,), or its indices (B,) for a graph.

        Returns how many images it had.
        """
        step = self.state.step
        self.lr = self._rate(step)
        momentum = None if self.momentum is None else self.momentum(step)
        decay = None if self.average is None else self.average.decay_after(step + 1)
        if self.graphed is not None:
            if self.graphed.fits(batch):
                self.graphed.run(batch, self.state.epoch, step, self.lr, momentum, decay)
                return len(batch)
            batch = self.train_loader.batch(batch, self.state.epoch)
        x, labels = batch
        self.model.set_step(step)
        checked = self.device.kind == "cpu" or step % GPU_CHECK_EVERY == 0
        self.work.check = self._check_loss if checked else None
        self.work.run(x, labels, self.lr, momentum, decay, self._totals)
        return len(labels)

    def _end_epoch(self) -> None:
        """Validate, remember the best, move on to the next epoch, tell the callbacks."""
        state = self.state
        metrics: dict[str, Any] = {
            "kind": "epoch",
            "epoch": state.epoch + 1,
            "step": state.step,
            "progress": float(state.epoch + 1),
            "lr": self.lr,
            "train_loss": state.loss_sum / state.seen,
            "train_accuracy": state.correct / state.seen,
            "val_loss": None,
            "val_accuracy": None,
        }
        improved = False
        if self.val_loader is not None:
            with self.averaged():
                result = evaluate(
                    self.network, self.val_loader, self.num_classes, self._on_evaluate, self.tta
                )
            metrics["val_loss"], metrics["val_accuracy"] = result.loss, result.accuracy
            state.val_accuracy = result.accuracy
            best = state.best_val_accuracy
            improved = best is None or result.accuracy > best
            if self.plateau is not None:
                self._follow_plateau(result.loss)
        if improved:
            state.best_val_accuracy, state.best_epoch = state.val_accuracy, state.epoch + 1
        metrics["best"] = improved
        self._start_next_epoch()
        metrics["images_per_second"] = self.images_per_second
        metrics["seconds"] = self.seconds()
        self._call("on_epoch", metrics)
        self._stop_if_asked()

    def _follow_plateau(self, loss: float) -> None:
        state = self.state
        before = PlateauState(state.plateau_rate, state.plateau_best, state.plateau_waited)
        after = self.plateau.after(before, loss)
        state.plateau_rate, state.plateau_best, state.plateau_waited = after

    def _rate(self, step: int) -> float:
        """The learning rate of `step`, lowered by the plateaus so far."""
        return self.schedule(step) * self.state.plateau_rate

    def _start_next_epoch(self) -> None:
        state = self.state
        state.epoch += 1
        state.batch = state.correct = state.seen = 0
        state.logged_correct = state.logged_seen = 0
        state.loss_sum = state.logged_loss_sum = 0.0
        self._totals[...] = 0

    # --- what callbacks ask -----------------------------------------------------------------

    @property
    def images_per_second(self) -> float:
        """Training images per second of the steps alone, over the whole training."""
        return self.state.images / max(self.state.train_seconds, 1e-9)

    def stop(self, reason: str) -> None:
        """End the training after this epoch as if it were the last; `reason` is for its log."""
        self._asked_to_stop = reason

    @property
    def gradient_norm(self) -> Array | None:
        """The norm of all gradients before clipping, in the last step; None without `clip_norm`."""
        return self.work.gradient_norm

    @property
    def stop_reason(self) -> str | None:
        """Why the training ends before its last epoch: asked to, or `patience` is at its end."""
        best = self.state.best_epoch
        if self.patience and best is not None and self.state.epoch - best >= self.patience:
            return f"no better validation since epoch {best}"
        return self._asked_to_stop

    def averaged(self) -> AbstractContextManager[None]:
        """While it lasts, the model holds the average of its weights, where there is one."""
        return nullcontext() if self.average is None else self.average.applied()

    def seconds(self) -> float:
        """Seconds since the training began, without the time between interruption and resume."""
        now = time.monotonic()
        self.state.seconds += now - self._clock
        self._clock = now
        return self.state.seconds

    def read_sums(self) -> TrainState:
        """The state with the sums of this epoch fetched from the device.

        `DivergedError` if the sum is not finite: so a GPU's NaN shows at the next line of the log.
        """
        loss_sum, correct = to_host(self._totals)
        self.state.loss_sum = float(loss_sum)
        self.state.correct = int(correct)
        if not math.isfinite(self.state.loss_sum):
            what = f"the loss became {self.state.loss_sum} at or before step {self.state.step}"
            raise DivergedError(self._diverged(what))
        return self.state

    def checked_weights(self) -> dict[str, np.ndarray]:
        """The model's state on the host; `DivergedError` if any of it is NaN or infinite."""
        weights = self.model.state_dict()
        for name, values in weights.items():
            if not np.isfinite(values).all():
                what = f"{name} holds NaN or infinity after step {self.state.step}"
                raise DivergedError(self._diverged(what))
        return weights

    # --- internals --------------------------------------------------------------------------

    def _count_train_seconds(self) -> None:
        now = time.monotonic()
        self.state.train_seconds += now - self._train_clock
        self._train_clock = now

    def _call(self, method: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, method)(self, *arguments)

    def _on_evaluate(self, done: int, batches: int) -> None:
        self._call("on_evaluate", done, batches)
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.interrupt.requested:
            raise _Stop

    def _check_loss(self, loss: Array) -> None:
        value = float(loss)
        if not math.isfinite(value):
            what = f"the loss is {value} at step {self.state.step + 1}"
            raise DivergedError(self._diverged(what))

    def _diverged(self, what: str) -> str:
        """The line that ends a diverged training."""
        squares = (
            float(np.square(to_host(p.grad), dtype=np.float64).sum())
            for _, p in self.model.named_parameters()
        )
        norm = math.sqrt(sum(squares))
        return (
            f"diverged: {what}, learning rate {self.lr:.4g}, "
            f"gradient norm {norm:.4g}; try a smaller --lr or a longer --warmup"
        )


class _Stop(Exception):
    """Leaves the loop after a signal."""
