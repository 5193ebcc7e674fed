"""The folder of a run: where it lies, what is in it, and who may write there.

runs/resnet20-cifar10-001/
    config.toml          every decision of the training; train --config repeats it
    last.safetensors     the newest checkpoint, to resume from
    best.safetensors     the one with the best validation accuracy
    history.jsonl        the log
    curves.png           a picture of the log
    result.json          the figures of the finished training
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minires.atomic import write_atomically
from minires.errors import CheckpointError, UsageError

RUNS = Path("runs")


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The config as TOML."""
        return self.path / "config.toml"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "last.safetensors"

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation accuracy."""
        return self.path / "best.safetensors"

    @property
    def history(self) -> Path:
        """The log, one JSON object per line."""
        return self.path / "history.jsonl"

    @property
    def curves(self) -> Path:
        """The picture of the log."""
        return self.path / "curves.png"

    @property
    def result(self) -> Path:
        """The figures of the finished training."""
        return self.path / "result.json"

    def exists(self) -> bool:
        """Whether something of a run lies here."""
        files = (self.config, self.last, self.best, self.history, self.result)
        return any(path.exists() for path in files)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write result.json, whole or not at all."""
        write_atomically(self.result, (json.dumps(result, indent=2) + "\n").encode())

    def read_result(self) -> dict[str, Any] | None:
        """What result.json holds; None if the run has not finished."""
        try:
            result = json.loads(self.result.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.result}: damaged ({error}); delete it") from error
        if not isinstance(result, dict):
            raise CheckpointError(f"{self.result}: damaged (no JSON object); delete it")
        return result

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Let one process at a time train here; the lock goes with the process, even if killed."""
        try:
            import fcntl
        except ImportError:  # Windows has no such lock; two trainings there are the user's risk
            yield
            return
        with open(self.path / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"{self.path}: another process is training here") from None
            except OSError:  # a mounted cloud drive may have no locks either
                pass
            yield


def create_run(path: Path | None, model: str, dataset: str) -> RunFolder:
    """Make a new run folder: `path`, or the next free runs/MODEL-DATASET-NNN.

    Raises `UsageError` if a run lies there already or the folder cannot be made.
    """
    try:
        if path is None:
            return RunFolder(next_free(RUNS, f"{model}-{dataset}"))
        run = RunFolder(path)
        path.mkdir(parents=True, exist_ok=True)
        if run.exists():
            raise UsageError(
                f"--run-dir {path}: holds a run already; continue it with --resume {path} "
                "or choose another folder"
            )
        if not os.access(path, os.W_OK):
            raise UsageError(f"--run-dir {path}: this folder is read-only")
        return run
    except OSError as error:
        where = f"--run-dir {path}" if path else RUNS
        hint = "" if path else "; choose another place with --run-dir"
        raise UsageError(f"{where}: cannot be made ({error.strerror}){hint}") from error


def open_run(path: Path) -> RunFolder:
    """The run in the folder `path`; `CheckpointError` if there is none."""
    run = RunFolder(path)
    if not path.is_dir():
        reason = "is a file, not a run folder" if path.exists() else "no such folder"
        raise CheckpointError(f"{path}: {reason}{_other_runs(path)}")
    if not run.exists():
        raise CheckpointError(f"{path}: holds no run{_other_runs(path)}")
    return run


def newest_run(root: Path = RUNS) -> Path:
    """The run in the folder `root` that was written to last; `CheckpointError` if there is none."""
    newest = _newest(root)
    if newest is None:
        raise CheckpointError(f"no RUN was named, and {root}/ holds none; train makes one")
    return newest


def _newest(root: Path) -> Path | None:
    if not root.is_dir():
        return None
    runs = (p for p in root.iterdir() if p.is_dir() and RunFolder(p).exists())
    return max(runs, key=lambda p: p.stat().st_mtime, default=None)


def next_free(root: Path, prefix: str, ending: str = "") -> Path:
    """Make root/PREFIX-NNN, with `ending`, and the first number above all that are there."""
    root.mkdir(parents=True, exist_ok=True)
    names = (entry.name.removeprefix(f"{prefix}-") for entry in root.glob(f"{prefix}-*"))
    numbers = (name.partition("-")[0] for name in names)
    number = max((int(n) for n in numbers if n.isdecimal()), default=0)
    while True:
        number += 1
        path = root / f"{prefix}-{number:03d}{ending}"
        with contextlib.suppress(FileExistsError):  # another process was quicker
            path.mkdir()
            return path


def _other_runs(path: Path) -> str:
    """The end of an error line: the newest run, where there is one."""
    for root in (path, path.parent, RUNS):
        newest = _newest(root)
        if newest is not None:
            return f"; the newest run in {root} is {newest.name}"
    return "; train makes one"
