"""Write a file so that a kill at any moment leaves the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

PARTIAL = ".partial"
"""The end of the name of a file that is still being written, or was when its writer was killed."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a hidden file beside `path`, flush it to disk, rename it, flush the folder.

    Raises OSError that names `path` if that fails; the hidden file is gone then and an earlier
    `path` is intact.
    """
    try:
        _write_and_rename(path, content)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    flush_folder(path.parent)


def _write_and_rename(path: Path, content: bytes) -> None:
    descriptor, partial = tempfile.mkstemp(PARTIAL, f".{path.name}.", path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def flush_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut; not every file system can (or needs to)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    """The process's mask of file permissions, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
