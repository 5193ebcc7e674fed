"""What a person sees while a training runs, always on stderr: a live bar, or a line per epoch."""

from __future__ import annotations

import sys
import time
from typing import Any

from minires.training.loop import Callback, Trainer

REFRESH_SECONDS = 0.25


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def epoch_line(metrics: dict[str, Any], epochs: int) -> str:
    """One epoch in one line."""
    width = len(str(epochs))
    line = (
        f"epoch {metrics['epoch']:{width}}/{epochs}"
        f"  loss {metrics['train_loss']:.4f}  accuracy {metrics['train_accuracy']:7.2%}"
    )
    if metrics["val_accuracy"] is not None:
        line += f"  val loss {metrics['val_loss']:.4f}  val accuracy {metrics['val_accuracy']:7.2%}"
        line += " *" if metrics["best"] else "  "
    rate = metrics["images_per_second"]
    return line + f"  {rate:,.0f} images/s  {duration(metrics['seconds'])}"


def progress_callback() -> Callback:
    """The live bar on a terminal, plain lines elsewhere."""
    return LiveProgress() if sys.stderr.isatty() else EpochLines()


class EpochLines(Callback):
    """One plain line on stderr after each epoch."""

    def on_epoch(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """Print the epoch."""
        print(epoch_line(metrics, trainer.epochs), file=sys.stderr, flush=True)


class LiveProgress(Callback):
    """A bar of the whole training that moves with every step, below the lines of the epochs."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._drawn = 0.0

    def on_start(self, trainer: Trainer) -> None:
        """Show the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=None),
            TextColumn("[bold]{task.percentage:3.0f}%"),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            expand=True,
            transient=True,
            auto_refresh=False,
        )
        self._task = self._progress.add_task(
            "train",
            total=trainer.total_steps,
            completed=trainer.state.step,
            epoch=trainer.state.epoch + 1,
            epochs=trainer.epochs,
            note="first step ...",
        )
        self._first_step = trainer.state.step
        self._started = time.monotonic()
        self._progress.start()

    def on_step(self, trainer: Trainer) -> None:
        """Move the bar, a few times a second at most: reading a loss makes a GPU wait."""
        if time.monotonic() - self._drawn < REFRESH_SECONDS:
            return
        state = trainer.read_sums()
        note = (
            f"loss {state.loss_sum / state.seen:.3f}  acc {state.correct / state.seen:.1%}  "
            f"rate {trainer.lr:.3g}  {trainer.images_per_second:,.0f} images/s  "
            f"{duration(self._time_left(trainer))} left"
        )
        self._show(trainer, note)

    def on_evaluate(self, trainer: Trainer, done: int, batches: int) -> None:
        """Say that this is the validation."""
        if time.monotonic() - self._drawn >= REFRESH_SECONDS:
            self._show(trainer, f"validating {done}/{batches}")

    def on_epoch(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """Print the epoch above the bar."""
        self._progress.console.print(
            epoch_line(metrics, trainer.epochs), highlight=False, soft_wrap=True
        )

    def on_interrupt(self, trainer: Trainer) -> None:
        """Take the bar away, so that the last word stands alone."""
        self.close()

    def close(self) -> None:
        """Give the terminal back."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _show(self, trainer: Trainer, note: str) -> None:
        epoch = min(trainer.state.epoch + 1, trainer.epochs)
        step = trainer.state.step
        self._progress.update(self._task, completed=step, epoch=epoch, note=note, refresh=True)
        self._drawn = time.monotonic()

    def _time_left(self, trainer: Trainer) -> float:
        done = trainer.state.step - self._first_step
        elapsed = time.monotonic() - self._started
        return elapsed / max(done, 1) * (trainer.total_steps - trainer.state.step)
