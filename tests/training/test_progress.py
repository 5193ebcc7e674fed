"""What a person sees: words for durations, one line for an epoch, the right display."""

from __future__ import annotations

import io

import pytest

from minires.training import progress


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (65, "1 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7620, "2 h 07 min"),
    ],
)
def test_durations_in_words(seconds, words):
    assert progress.duration(seconds) == words


def test_an_epoch_is_one_line():
    metrics = {
        **{"epoch": 3, "train_loss": 0.51234, "train_accuracy": 0.8, "val_loss": 0.6},
        **{"val_accuracy": 0.75, "best": True, "images_per_second": 1234.5, "seconds": 65.0},
    }
    line = progress.epoch_line(metrics, 20)
    for words in ("epoch  3/20", "loss 0.5123", "80.00%", "75.00% *", "1,234 images/s", "1 min"):
        assert words in line
    without = progress.epoch_line(metrics | {"val_accuracy": None}, 20)
    assert "val" not in without


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    assert isinstance(progress.progress_callback(), progress.LiveProgress)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert isinstance(progress.progress_callback(), progress.EpochLines)


class FakeTrainer:
    """As much of a trainer as the bar asks for."""

    epochs, total_steps, lr, images_per_second = 2, 4, 0.1, 100.0

    class state:
        step, epoch, loss_sum, correct, seen = 1, 0, 8.0, 2, 4

    def read_sums(self):
        return self.state


def test_the_bar_shows_loss_accuracy_and_rate(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    bar, trainer = progress.LiveProgress(), FakeTrainer()
    bar.on_start(trainer)
    bar.on_step(trainer)
    bar.close()
    bar.close()  # twice does no harm
    shown = terminal.getvalue()
    for words in ("loss 2.000", "acc 50.0%", "rate 0.1", "100 images/s", "left"):
        assert words in shown
