"""What hangs on the training loop: the log, the checkpoints and the picture.

The order in the list matters in one place: the log comes before the checkpoints, because a
checkpoint notes how long the log was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minires.training.curves import draw_curves
from minires.training.history import History, read_history
from minires.training.loop import Callback, Trainer

REDRAW_SECONDS = 60.0


class LogHistory(Callback):
    """Writes a line after every `log_every` steps and after every epoch."""

    def __init__(self, history: History, log_every: int) -> None:
        self.history = history
        self.log_every = log_every

    def on_step(self, trainer: Trainer) -> None:
        """Log the mean since the line before, or since the epoch began."""
        if trainer.state.step % self.log_every:
            return
        state = trainer.read_sums()
        seen = state.seen - state.logged_seen
        loss = (state.loss_sum - state.logged_loss_sum) / seen
        accuracy = (state.correct - state.logged_correct) / seen
        state.logged_loss_sum, state.logged_seen = state.loss_sum, state.seen
        state.logged_correct = state.correct
        record = {
            "kind": "step",
            "step": state.step,
            "progress": state.step / trainer.steps_per_epoch,
            "lr": trainer.lr,
            "loss": loss,
            "accuracy": accuracy,
        }
        if trainer.gradient_norm is not None:
            record["gradient_norm"] = float(trainer.gradient_norm)
        if trainer.scaler is not None:
            record["loss_scale"] = float(trainer.scaler.scale)
        self.history.append(record)

    def on_epoch(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """Log the epoch."""
        self.history.append(metrics)

    def close(self) -> None:
        """Close the log."""
        self.history.close()


class SaveCheckpoints(Callback):
    """Saves `last` at the start, every `save_every` steps, after each epoch and on a signal.

    `save(path, trainer)` writes one checkpoint; `best` is written when the validation improved.
    """

    def __init__(
        self, save: Callable[[Path, Trainer], None], last: Path, best: Path, save_every: int
    ) -> None:
        self.save = save
        self.last = last
        self.best = best
        self.save_every = save_every

    def on_start(self, trainer: Trainer) -> None:
        """Save once before the first step, so that there is always something to resume from."""
        if not self.last.exists():
            self.save(self.last, trainer)

    def on_step(self, trainer: Trainer) -> None:
        """Save inside an epoch; its end has a save of its own."""
        if trainer.state.step % self.save_every == 0 and (
            trainer.state.batch < trainer.steps_per_epoch
        ):
            self.save(self.last, trainer)

    def on_epoch(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """Save `best` if it is, then `last`: a kill in between loses neither."""
        if metrics["best"]:
            self.save(self.best, trainer)
        self.save(self.last, trainer)

    def on_interrupt(self, trainer: Trainer) -> None:
        """Save where the signal came."""
        self.save(self.last, trainer)


class DrawCurves(Callback):
    """Redraws the picture after an epoch, at most once a minute, and at the end."""

    def __init__(self, history: Path, picture: Path, title: str) -> None:
        self.history = history
        self.picture = picture
        self.title = title
        self._drawn = time.monotonic()

    def on_epoch(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """Draw if the picture is old."""
        if time.monotonic() - self._drawn > REDRAW_SECONDS:
            self.draw()

    def on_interrupt(self, trainer: Trainer) -> None:
        """Draw what there is."""
        self.draw()

    def draw(self) -> None:
        """Draw the log as it is now."""
        draw_curves(read_history(self.history), self.picture, self.title)
        self._drawn = time.monotonic()
