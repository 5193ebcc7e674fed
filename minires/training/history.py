"""The log of a run: one JSON object per line, only ever appended to.

A line has a `kind`: "step" (mean loss and accuracy since the line before), "epoch" (the whole
epoch and the validation), "test" (the final measurement). A checkpoint remembers how long the file
was when it was written; a resumed run cuts the file there, so no line is lost or doubled.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any


class History:
    """Appends records to a JSONL file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open for the whole run

    def append(self, record: dict[str, Any]) -> None:
        """Write one line and hand it to the operating system, so that a killed process keeps it."""
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def sync(self) -> int:
        """Wait until all lines are on the disk; returns the length of the file in bytes."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file; every line was handed over when it was written."""
        with contextlib.suppress(OSError):
            self._file.close()


def cut_history(path: Path, length: int) -> None:
    """Drop what was written after the file was `length` bytes long; a shorter file stays."""
    if path.exists() and path.stat().st_size > length:
        with open(path, "r+b") as file:
            file.truncate(length)


def read_history(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The records of a log, all or those of one `kind`.

    Left out is what is no record: a torn last line, or what a damaged disk has made of a line.
    """
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and "kind" in record and kind in (None, record["kind"]):
            records.append(record)
    return records
