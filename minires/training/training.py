"""One training: its parts put together, saved, loaded, run to the end and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from minires.backend import Device
from minires.environment import environment
from minires.errors import CheckpointError, DivergedError, Interrupted
from minires.nn import Module
from minires.optim import averaging, scaling
from minires.spelling import printable
from minires.training.callbacks import DrawCurves, LogHistory, SaveCheckpoints
from minires.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from minires.training.config import TrainConfig
from minires.training.curves import draw_curves
from minires.training.data_parallel import processes_for
from minires.training.estimate import Estimate, estimate, out_of_memory
from minires.training.evaluate import evaluate
from minires.training.history import History, cut_history, read_history
from minires.training.loop import Callback, Trainer, TrainState
from minires.training.progress import duration
from minires.training.run import RunFolder
from minires.training.setup import (
    TrainingData,
    make_average,
    make_eval_loader,
    make_optimizer,
    make_scaler,
    make_train_loader,
    momentum_of,
    plateau_of,
    schedule_of,
)

Say = Callable[[str], None]


def refuse_differences(path: Path, differences: list[str]) -> None:
    """Raise `CheckpointError` where `differences` make another training of the run at `path`."""
    if differences:
        listed = "; ".join(differences)
        raise CheckpointError(f"{path} cannot be continued as another training: {listed}")


def image_counts(data: TrainingData) -> dict[str, int]:
    """The numbers of images by which a run knows its data again."""
    return {"training": len(data.train), "test": len(data.test)}


class _Forecast(Callback):
    """Tells `say_estimate` how many steps are left, once there is a checkpoint to come back to."""

    def __init__(self, say_estimate: Callable[[int], None]) -> None:
        self.say_estimate = say_estimate

    def on_start(self, trainer: Trainer) -> None:
        """Estimate what is left, where anything is."""
        left = trainer.total_steps - trainer.state.step
        if left:
            self.say_estimate(left)


class Training:
    """The parts of one training, put together."""

    def __init__(
        self,
        config: TrainConfig,
        run: RunFolder,
        data: TrainingData,
        device: Device,
        model: Module,
        say: Say,
    ) -> None:
        self.config = config
        self.run = run
        self.data = data
        self.device = device
        self.model = model
        self.say = say
        self.optimizer = make_optimizer(config, model)
        self.average = make_average(config, model, self.optimizer)
        self.scaler = make_scaler(config, device)
        self.guess: Estimate | None = None
        self.state = TrainState()
        self.parameters = sum(p.size for _, p in model.named_parameters())
        self.trained = sum(p.size for _, p in model.trainable_parameters())

    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint`; the log is cut to where it was then."""
        spec = self.model.spec
        refuse_differences(
            self.run.path,
            [
                f"model {key}: {checkpoint.spec.get(key)} in the run, {spec[key]} here"
                for key in spec
                if checkpoint.spec.get(key) != spec[key]
            ],
        )
        self.model.load_state_dict(dict(checkpoint.model))
        own, averages, scale = _parts(checkpoint.optimizer)
        self.optimizer.load_state_dict(own)
        if self.average is not None:
            self.average.load_state_dict(averages)
        if self.scaler is not None:
            self.scaler.load_state_dict(scale)
        self.state = TrainState(
            step=checkpoint.step,
            epoch=checkpoint.epoch,
            batch=checkpoint.batch,
            **checkpoint.running,
        )
        cut_history(self.run.history, checkpoint.extra["history_bytes"])

    def run_to_end(
        self, progress: Callback | None, program: str, callbacks: Sequence[Callback]
    ) -> dict[str, Any]:
        """Train, test, and write the picture and result.json."""
        trainer = self._trainer()
        self._introduce(trainer)
        self.history = History(self.run.history)
        title = f"{printable(self.run.path.name)}: {self.config.model} on {self.config.dataset}"
        trainer.callbacks = [
            LogHistory(self.history, self.config.log_every),
            SaveCheckpoints(self.save, self.run.last, self.run.best, self.config.save_every),
            _Forecast(self._say_estimate),
            DrawCurves(self.run.history, self.run.curves, title),
            *([progress] if progress is not None else []),
            *callbacks,
        ]
        try:
            trainer.fit()
        except DivergedError as error:
            draw_curves(read_history(self.run.history), self.run.curves, title)
            raise DivergedError(f"{error}; the last good checkpoint is {self.run.last}") from error
        except MemoryError as error:
            raise out_of_memory(self.guess, self.config.batch_size, self.device) from error
        except Interrupted as stop:
            hint = f"{stop}; to continue: {program} train --resume {self.run.path}"
            raise Interrupted(hint, stop.exit_code) from stop
        result = self._measure(trainer)
        draw_curves(read_history(self.run.history), self.run.curves, title)
        self.run.write_result(result)
        return result

    def save(self, path: Path, trainer: Trainer) -> None:
        """Write a checkpoint of this moment; `DivergedError` rather than one with NaN in it.

        The model of `best` is what was validated: the average of the weights, where there is one.
        """
        trainer.seconds()
        with trainer.averaged() if path == self.run.best else nullcontext():
            weights = trainer.checked_weights()
        slots = self.optimizer.state_dict()
        for more in (self.average, self.scaler):
            slots |= {} if more is None else more.state_dict()
        state = trainer.read_sums().to_dict()
        place = {name: state.pop(name) for name in ("step", "epoch", "batch")}
        checkpoint = Checkpoint(
            model=weights,
            optimizer=slots,
            spec=self.model.spec,
            mean=tuple(self.data.normalization.mean),
            std=tuple(self.data.normalization.std),
            class_names=tuple(self.data.train.class_names),
            config=self.config.to_dict(),
            running=state,
            metrics={
                "val_accuracy": trainer.state.val_accuracy,
                "best_val_accuracy": trainer.state.best_val_accuracy,
            },
            data_fingerprint=self.data.fingerprint,
            extra={"history_bytes": self.history.sync(), "images": image_counts(self.data)},
            **place,
        )
        save_checkpoint(path, checkpoint)

    def _trainer(self) -> Trainer:
        config, data, norm = self.config, self.data, self.data.normalization
        images = data.train.to(self.device)  # once, for both loaders
        train_loader = make_train_loader(config, images, data.train_indices, self.device, norm)
        val_loader = None
        if len(data.val_indices):
            val_loader = make_eval_loader(config, images, data.val_indices, self.device, norm)
        total_steps = config.epochs * len(train_loader)
        return Trainer(
            model=self.model,
            optimizer=self.optimizer,
            schedule=schedule_of(config, total_steps),
            momentum=momentum_of(config, total_steps),
            plateau=plateau_of(config),
            average=self.average,
            scaler=self.scaler,
            graph=config.graph,
            say=self.say,
            clip_norm=config.clip_norm,
            clip_value=config.clip_value,
            patience=config.patience,
            tta=config.tta,
            train_loader=train_loader,
            val_loader=val_loader,
            num_classes=data.num_classes,
            epochs=config.epochs,
            device=self.device,
            label_smoothing=config.label_smoothing,
            state=self.state,
        )

    def _introduce(self, trainer: Trainer) -> None:
        """Say what is about to happen."""
        config, data = self.config, self.data
        norm = data.normalization
        self.say(f"run      {self.run.path}")
        self.say(
            f"model    {config.model}, {self.parameters:,} parameters"
            + (f" ({self.trained:,} trained)" if self.trained < self.parameters else "")
            + f", on {self.device}"
            + (self._sharing() if self.device.kind == "cpu" else "")
        )
        self.say(
            f"data     {config.dataset}: {len(data.train_indices):,} images to train on, "
            f"{len(data.val_indices):,} to validate, {len(data.test):,} to test"
        )
        self.say(f"pixels   mean {_numbers(norm.mean)}, std {_numbers(norm.std)} (from 0 to 1)")
        if self.state.step:
            self.say(f"resumed  after step {self.state.step:,} of {trainer.total_steps:,}")

    def _sharing(self) -> str:
        """How the cores of a CPU share the work."""
        threads = self.config.threads
        processes = processes_for(self.model, self.config.batch_size)
        if processes == 1:
            return f" with {threads} thread{'s' * (threads != 1)}"
        each = threads // processes
        return f" in {processes} processes" + (f" of {each} threads" if each > 1 else "")

    def _say_estimate(self, steps: int) -> None:
        """Say how long `steps` more steps will take, and whether they fit into memory."""
        try:
            self.guess = guess = estimate(self.config, self.data, self.device, steps)
        except MemoryError as error:
            raise out_of_memory(self.guess, self.config.batch_size, self.device) from error
        memory = "" if guess.peak_bytes is None else f", {_bytes(guess.peak_bytes)} of memory"
        self.say(f"estimate {duration(guess.seconds)} for {steps:,} steps{memory}")
        if guess.exceeds_memory():
            free = _bytes(guess.free_bytes or 0)
            hint = guess.hint(self.config.batch_size)
            self.say(f"warning: only {free} of memory are free; {hint}")

    def _measure(self, trainer: Trainer) -> dict[str, Any]:
        """The test accuracy, once, of the weights that validation chose; the result as a record."""
        which, weights = "last", trainer.averaged()
        if trainer.state.best_epoch is not None:
            which, weights = "best", nullcontext()
            self.model.load_state_dict(dict(load_checkpoint(self.run.best).model))
        images, norm = self.data.test, self.data.normalization
        everything = np.arange(len(images))
        loader = make_eval_loader(self.config, images, everything, self.device, norm)
        with weights:
            test = evaluate(self.model, loader, self.data.num_classes, tta=self.config.tta)
        state = trainer.state
        record = {"accuracy": test.accuracy, "loss": test.loss, "checkpoint": which}
        history = History(self.run.history)
        reason = trainer.stop_reason
        if reason is not None:
            where = {"step": state.step, "epoch": state.epoch, "best_epoch": state.best_epoch}
            history.append({"kind": "stop", **where, "reason": reason})
            self.say(f"stopped after epoch {state.epoch} of {self.config.epochs}: {reason}")
        history.append({"kind": "test", "step": state.step, **record})
        history.close()
        return {
            "run": str(self.run.path),
            "model": self.config.model,
            "dataset": self.config.dataset,
            "parameters": self.parameters,
            "steps": state.step,
            "epochs": state.epoch,
            "stopped_early": reason is not None,
            "stop_reason": reason,
            "val_accuracy": state.val_accuracy,
            "best_val_accuracy": state.best_val_accuracy,
            "best_epoch": state.best_epoch,
            "test_accuracy": test.accuracy,
            "test_loss": test.loss,
            "test_checkpoint": which,
            "images_per_second": round(trainer.images_per_second, 1),
            "seconds": round(trainer.seconds(), 1),
            "device": str(self.device),
            "threads": self.config.threads,
            "processes": trainer.network.processes,
            "seed": self.config.seed,
            "config": self.config.to_dict(),
            "environment": environment(),
        }


def _parts(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], ...]:
    """The optimizer's own of a saved state, the averages of the weights, and the loss scale."""
    parts = ({}, {}, {})
    for name, array in state.items():
        kinds = (name.startswith(averaging.PREFIX), name.startswith(scaling.PREFIX))
        parts[1 if kinds[0] else 2 if kinds[1] else 0][name] = array
    return parts


def _numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{v:.4f}" for v in values)


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
