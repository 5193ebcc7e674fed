"""The folder of a sweep, and the locks by which several workers share it.

    sweeps/cpu-eight/
        spec.toml      what was asked for
        study.db       Optuna's study: each trial with its values and accuracies
        trials/001/    a run folder for each trial, as `train` makes it
        report.csv     one line for each trial
        report.png     the picture

A lock goes with its process, even if it is killed: so a trial that is running and whose lock is
free was cut off, and whoever comes next continues it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from minires.errors import UsageError
from minires.sweep.spec import SPEC_FILE, SweepSpec
from minires.training.run import RunFolder

SWEEPS = Path("sweeps")


@dataclass(frozen=True)
class SweepFolder:
    """The paths of one sweep."""

    path: Path

    @property
    def spec(self) -> Path:
        """What was asked for, as TOML."""
        return self.path / SPEC_FILE

    @property
    def study(self) -> Path:
        """Optuna's data base."""
        return self.path / "study.db"

    @property
    def csv(self) -> Path:
        """The report as a table."""
        return self.path / "report.csv"

    @property
    def picture(self) -> Path:
        """The report as a picture."""
        return self.path / "report.png"

    def run(self, number: int, name: str = "") -> RunFolder:
        """The run folder of trial `number`, counted from 0, or of the experiment `name`."""
        return RunFolder(self.path / "trials" / (name or f"{number + 1:03d}"))

    def make(self) -> None:
        """Make the folder; `UsageError` where that fails."""
        try:
            (self.path / "trials").mkdir(parents=True, exist_ok=True)
            (self.path / ".locks").mkdir(exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be made ({error.strerror})") from error

    @contextlib.contextmanager
    def alone(self, what: str = "claim") -> Iterator[None]:
        """Wait until no other process is here under the name `what`; for moments, not trainings."""
        with open(self.path / ".locks" / what, "w") as file:
            _lock(file, wait=True)
            yield

    def hold(self, number: int) -> IO | None:
        """Take the lock of trial `number` until the file is closed; None if another has it."""
        file = open(self.path / ".locks" / f"{number + 1:03d}", "w")  # noqa: SIM115 - kept open
        if _lock(file, wait=False):
            return file
        file.close()
        return None

    def is_held(self, number: int) -> bool:
        """Whether a process is running trial `number` now."""
        file = self.hold(number)
        if file is None:
            return True
        file.close()
        return False


def folder_of(spec: SweepSpec, asked: Path | None, given: str) -> SweepFolder:
    """The folder `asked` for, or the one that `given` names itself, or sweeps/NAME."""
    if asked is None and (Path(given) / SPEC_FILE).is_file():
        asked = Path(given)
    return SweepFolder(asked or SWEEPS / spec.name)


def can_lock() -> bool:
    """Whether this system has the locks that several workers need."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        return False
    return True


def _lock(file: IO, wait: bool) -> bool:
    """Lock `file` for this process; False if another has it. Without locks, always True."""
    if not can_lock():
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
