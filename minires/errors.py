"""The errors a user can meet: one line each, and an exit code each."""

from __future__ import annotations


class MiniresError(Exception):
    """A mistake or a mishap that one line explains; `exit_code` is what the program returns."""

    exit_code = 1


class UsageError(MiniresError):
    """An option or argument that cannot be used."""

    exit_code = 2


class DataError(MiniresError):
    """Data that is missing, damaged or not what it claims to be."""

    exit_code = 3


class CheckpointError(MiniresError):
    """A checkpoint or weight file that is missing, damaged or belongs to something else."""

    exit_code = 4


class DeviceError(MiniresError):
    """A device that was asked for and cannot be used."""

    exit_code = 5


class DivergedError(MiniresError):
    """A training whose loss became infinite or not a number."""

    exit_code = 6


class Interrupted(MiniresError):
    """A training that a signal ended, after it was saved: 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ShapeError(MiniresError, ValueError):
    """An array whose shape does not fit the layer that it entered."""


class BackwardError(MiniresError, RuntimeError):
    """A backward pass with no training forward pass before it."""
