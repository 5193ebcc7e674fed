"""What a measurement has to say beside its numbers: the machine, the versions, the commit."""

from __future__ import annotations

import platform
import re
from importlib import metadata
from pathlib import Path

from minires import __version__, devices

_PACKAGES = ("numpy", "numba", "cupy", "cupy-cuda12x", "cupy-cuda13x", "torch")


def environment() -> dict:
    """The facts as a dict that JSON can hold.

    Keys: `minires` (version), `commit` (None outside a git checkout), `python`, `packages`
    (versions of those installed), `system`, `cpu` (model name), `cores` (that this process may
    use) and `memory_bytes` (None where the system does not tell).
    """
    return {
        "minires": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": _versions(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": devices.available_cores(),
        "memory_bytes": _memory_bytes(),
    }


def commit(root: Path | None = None) -> str | None:
    """The commit that is checked out at `root` (default: where this package lies), or None.

    In a further worktree `.git` is a file that names the folder with its HEAD; the branches lie in
    the folder that the file `commondir` in there names.
    """
    git = (root or Path(__file__).resolve().parent.parent) / ".git"
    try:
        if git.is_file():
            git = git.parent / git.read_text().strip().removeprefix("gitdir: ")
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / "commondir").is_file():
            git = git / (git / "commondir").read_text().strip()
        if (git / name).is_file():
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text()
    except OSError:
        return None
    found = re.search(rf"^([0-9a-f]+) {re.escape(name)}$", packed, re.MULTILINE)
    return found.group(1) if found else None


def cpu_name() -> str:
    """The CPU's model name."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _memory_bytes() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"^MemTotal:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None
