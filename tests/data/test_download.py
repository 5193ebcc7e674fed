"""Downloading from a server on this machine: what goes right, what goes wrong, what is left."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from minires.cli.download import command
from minires.data import download, fingerprint, load_dataset
from minires.data.cifar import CIFAR10
from minires.data.download import ARCHIVES, install
from minires.errors import DataError, UsageError

ROOT = Path(__file__).parents[2]
FOLDER = CIFAR10.folder


def pack(folder: Path, names=CIFAR10.all_files, extra=()) -> bytes:
    """A .tar.gz of the files of `folder`, and `extra` (member, content) pairs."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in names:
            tar.add(folder / FOLDER / name, arcname=f"{FOLDER}/{name}")
        for member, content in extra:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def archive(cifar10) -> bytes:
    return pack(cifar10)


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "target"


class Mirror(ThreadingHTTPServer):
    """Serves `pages` by path, counts requests, and can break off or stall."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.stalled, self.release = threading.Event(), threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        page = self.server.pages.get(self.path)
        if page is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if self.path == "/broken":
            page = page[: len(page) // 2]
        if self.path == "/stalled":
            self.wfile.write(page[:1000])
            self.wfile.flush()
            self.server.stalled.set()
            self.server.release.wait(60)
            return
        self.wfile.write(page)

    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.release.set()
        server.shutdown()


def left_in(folder: Path) -> list[str]:
    """Everything below `folder`, hidden or not."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def refused(target: Path, *words: str, **options) -> None:
    """`install` fails with `DataError`, says `words`, and leaves nothing."""
    with pytest.raises(DataError) as caught:
        install("cifar10", target, **options)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not target.exists() or left_in(target) == []


# --- what goes right ------------------------------------------------------------------------


def test_from_a_mirror(mirror, archive, cifar10, target):
    mirror.pages["/a.tar.gz"] = archive
    seen = []
    url = mirror.url("/a.tar.gz")
    result = install(
        "cifar10",
        target,
        urls=[url],
        sha256=sha256(archive).upper(),
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert (result.folder, result.source) == (target / FOLDER, url)
    assert seen[-1] == (len(archive), len(archive))
    for split in ("train", "test"):
        original, copy = (load_dataset("cifar10", split, place) for place in (cifar10, target))
        assert fingerprint(copy) == fingerprint(original)
    expected = [FOLDER, *(f"{FOLDER}/{name}" for name in CIFAR10.all_files)]
    assert left_in(target) == sorted(expected)
    assert result.bytes == sum((target / FOLDER / n).stat().st_size for n in CIFAR10.all_files)


def test_what_is_there_is_not_fetched_again(mirror, cifar10):
    result = install("cifar10", cifar10, urls=[mirror.url("/a.tar.gz")])
    assert result.source == "already there"
    assert install("cifar10", cifar10 / FOLDER).folder == cifar10 / FOLDER
    assert mirror.requests == []


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_what_is_damaged_is_fetched_again(mirror, archive, cifar10, damage):
    mirror.pages["/a.tar.gz"] = archive
    damage(cifar10 / FOLDER / "data_batch_4")
    install("cifar10", cifar10, urls=[mirror.url("/a.tar.gz")], sha256=sha256(archive))
    assert len(load_dataset("cifar10", "train", cifar10)) == 100


def test_the_next_mirror_is_tried(mirror, archive, target):
    paths = ["/missing", "/broken", "/other", "/good", "/unused"]
    mirror.pages |= {"/broken": archive, "/other": b"<html>", "/good": archive}
    urls = ["http://127.0.0.1:1/none", *map(mirror.url, paths)]
    result = install("cifar10", target, urls=urls, sha256=sha256(archive))
    assert result.source == mirror.url("/good")
    assert mirror.requests == paths[:4]


def test_from_an_archive_on_disk(archive, tmp_path, target):
    path = tmp_path / "mine.tar.gz"
    path.write_bytes(archive)
    result = install("cifar10", target, archive=path, sha256=sha256(archive))
    assert result.source == str(path)
    assert len(load_dataset("cifar10", "test", target)) == 20
    assert path.exists()


def test_shapes_are_written_without_a_network(target):
    assert install("shapes", target).source == "drawn here"
    assert install("shapes", target).source == "already there"
    assert len(load_dataset("shapes", "train", target)) == 5_000


def test_the_official_archives():
    assert ARCHIVES["cifar10"].sha256.startswith("6d958be0") and len(ARCHIVES) == 2
    for archive in ARCHIVES.values():
        assert len(archive.sha256) == 64
        assert all(url.startswith("https://") for url in archive.mirrors)


# --- what goes wrong on the way ---------------------------------------------------------------


def test_every_mirror_fails(mirror, archive, target):
    mirror.pages |= {"/broken": archive, "/other": archive + b"x"}
    urls = ["http://127.0.0.1:1/none", *map(mirror.url, ("/missing", "/broken", "/other"))]
    words = ("no connection", "HTTP 404", "broke off", "another SHA-256", "--url", "--archive")
    refused(target, *urls, *words, urls=urls, sha256=sha256(archive))


def test_a_mirror_that_never_ends(mirror, archive, target, monkeypatch):
    mirror.pages["/flood"] = bytes(2**20)
    monkeypatch.setattr(download, "MAX_ARCHIVE_BYTES", 2**19)
    refused(target, "sent more than", urls=[mirror.url("/flood")], sha256=sha256(archive))


def test_addresses_and_hashes_that_mean_nothing(target, tmp_path):
    for options in (dict(urls=["ftp://host/a"]), dict(urls=["/etc/passwd"]), dict(sha256="abc")):
        with pytest.raises(UsageError):
            install("cifar10", target, **options)
    assert left_in(tmp_path) in ([], ["target"])


def test_an_archive_with_another_hash(archive, tmp_path, target):
    path = tmp_path / "mine.tar.gz"
    path.write_bytes(archive)
    refused(target, sha256(archive), ARCHIVES["cifar10"].sha256, "--sha256", archive=path)


def test_an_archive_that_is_not_there(tmp_path, target):
    refused(target, "missing.tar.gz", "No such file", archive=tmp_path / "missing.tar.gz")


def test_an_interruption_leaves_nothing(mirror, archive, target):
    mirror.pages["/a.tar.gz"] = archive

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install(
            "cifar10",
            target,
            urls=[mirror.url("/a.tar.gz")],
            sha256=sha256(archive),
            on_progress=interrupt,
        )
    assert left_in(target) == []


def test_sigterm_leaves_nothing(mirror, archive, target):
    mirror.pages["/stalled"] = archive
    arguments = ["--data-dir", str(target), "--url", mirror.url("/stalled")]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), "download", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert mirror.stalled.wait(60)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert left_in(target) == []


# --- archives that are wrong although their hash is right -------------------------------------


def unpacking_refused(content: bytes, tmp_path: Path, target: Path, *words: str) -> None:
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(content)
    refused(target, *words, archive=path, sha256=sha256(content))


def test_archives_that_are_none(archive, tmp_path, target):
    for content in (b"", b"text", gzip.compress(b"text" * 1000), archive[: len(archive) // 2]):
        unpacking_refused(content, tmp_path, target, "archive.tar.gz")


def test_an_archive_that_lacks_a_file(cifar10, tmp_path, target):
    content = pack(cifar10, CIFAR10.all_files[:-1])
    unpacking_refused(content, tmp_path, target, f"lacks {FOLDER}/test_batch")


def test_an_archive_with_a_link_in_place_of_a_file(cifar10, tmp_path, target):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
        member = tarfile.TarInfo(f"{FOLDER}/test_batch")
        member.type, member.linkname = kind, "/etc/passwd"
        content = pack(cifar10, CIFAR10.all_files[:-1], [(member, b"")])
        unpacking_refused(content, tmp_path, target, "not a regular file")


def test_an_archive_with_a_file_twice(cifar10, tmp_path, target):
    again = tarfile.TarInfo(f"{FOLDER}/test_batch")
    content = (cifar10 / FOLDER / "test_batch").read_bytes()
    unpacking_refused(pack(cifar10, extra=[(again, content)]), tmp_path, target, "twice")


def test_an_archive_with_a_malicious_batch(cifar10, tmp_path, target):
    member = tarfile.TarInfo(f"{FOLDER}/test_batch")
    evil = b"cos\nsystem\n(S'touch made'\ntR."
    content = pack(cifar10, CIFAR10.all_files[:-1], [(member, evil)])
    unpacking_refused(content, tmp_path, target, "test_batch", "os system")


def test_an_archive_that_unpacks_to_too_much(cifar10, tmp_path, target, monkeypatch):
    bomb = pack(cifar10, extra=[(tarfile.TarInfo("zeros"), bytes(3 * 2**20))])
    monkeypatch.setattr(download, "MAX_UNPACKED_BYTES", 2 * 2**20)
    unpacking_refused(bomb, tmp_path, target, "unpacks to more than")
    monkeypatch.setattr(download, "MAX_BYTES", 1_000)
    unpacking_refused(pack(cifar10), tmp_path, target, "too large")


def test_other_members_are_never_written(cifar10, tmp_path, target):
    names = ("../evil", "/evil", f"{FOLDER}/../../evil", f"{FOLDER}/readme.html")
    extra = [(tarfile.TarInfo(name), b"evil") for name in names]
    content = pack(cifar10, extra=extra)
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(content)
    install("cifar10", target, archive=path, sha256=sha256(content))
    assert not list(tmp_path.rglob("*evil*")) and not list(tmp_path.rglob("readme*"))


# --- disks that will not -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "number, words",
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "may write"), (errno.EDQUOT, "free some")],
)
def test_a_disk_that_fails(archive, tmp_path, target, monkeypatch, number, words):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fail)
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(archive)
    refused(target, words, "--data-dir", archive=path, sha256=sha256(archive))


def test_a_folder_that_cannot_be_made(archive, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="Not a directory.*--data-dir"):
        install("cifar10", tmp_path / "file" / "data", archive=tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="Permission denied.*--data-dir"):
        install("shapes", tmp_path / "data")


# --- the command --------------------------------------------------------------------------------


def test_the_command_in_json(archive, tmp_path, target):
    path = tmp_path / "mine.tar.gz"
    path.write_bytes(archive)
    arguments = ["--archive", path, "--sha256", sha256(archive), "--data-dir", target, "--json"]
    result = CliRunner().invoke(command, list(map(str, arguments)))
    assert result.exit_code == 0
    reply = json.loads(result.stdout)
    assert reply["folder"] == str(target / FOLDER) and reply["dataset"] == "cifar10"
    assert reply["files"] == list(CIFAR10.all_files) and reply["bytes"] > 0
    assert result.stderr == ""


def test_the_command_takes_mirrors_and_folder_from_the_environment(
    mirror, archive, target, monkeypatch
):
    mirror.pages["/b.tar.gz"] = archive
    monkeypatch.setenv("MINIRES_MIRRORS", f"{mirror.url('/a.tar.gz')} {mirror.url('/b.tar.gz')}")
    monkeypatch.setenv("MINIRES_DATA", str(target))
    result = CliRunner().invoke(command, ["--sha256", sha256(archive)])
    assert result.exit_code == 0
    assert str(target) in result.stdout
    assert mirror.requests == ["/a.tar.gz", "/b.tar.gz"]


def test_the_exit_code_and_the_line(tmp_path):
    arguments = ["download", "--archive", "none.tar.gz", "--data-dir", str(tmp_path / "new")]
    result = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments], capture_output=True, text=True
    )
    assert result.returncode == 3
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
