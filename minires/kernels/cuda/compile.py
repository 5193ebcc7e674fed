"""From .cu files to machine code, with NVRTC through CuPy; it needs no GPU.

One source file with all its instantiations becomes one cubin. It is kept on disk under a name that
hashes the sources, the instantiations, the architecture and the compiler, so a training compiles
only what has changed.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from minires.errors import DeviceError
from minires.kernels.cuda.instantiations import INSTANTIATIONS

SOURCES = Path(__file__).parent / "src"
OPTIONS = ("--std=c++17", "--ptxas-options=-v")


class Usage(NamedTuple):
    """What one kernel uses: registers per thread, bytes of stack and of spilled registers."""

    registers: int
    stack: int
    spills: int


class Compiled(NamedTuple):
    """A cubin, the mangled name of each instantiation, what each uses, and the compiler's log."""

    cubin: bytes
    names: dict[str, str]
    usage: dict[str, Usage]
    log: str


def include_folders() -> list[str]:
    """Where the CUDA headers are: the pip packages of NVIDIA, or an installed toolkit."""
    folders = []
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec is not None else []:
        folders += sorted(str(path) for path in Path(root).glob("*/include") if path.is_dir())
    toolkit = os.environ.get("CUDA_PATH", "/usr/local/cuda")
    if Path(toolkit, "include", "cuda_fp16.h").is_file():
        folders.append(str(Path(toolkit, "include")))
    return folders


def why_not() -> str | None:
    """Why nothing can be compiled here, in one line; None if it can."""
    try:
        importlib.import_module("cupy.cuda").nvrtc.getVersion()
    except Exception as error:  # CuPy raises many types; each of them means "not here"
        return f"NVRTC is not to be had ({str(error).strip().splitlines()[0]})"
    headers = ("cuda_fp16.h", "cuda_bf16.h")
    if not any(all(Path(f, h).is_file() for h in headers) for f in include_folders()):
        return (
            'the CUDA headers are not installed; pip install -e ".[cuda13]" brings them, '
            'with a CUDA 12 driver pip install -e ".[cuda12]"'
        )
    return None


def compile_source(source: str, architecture: str, names: list[str] | None = None) -> Compiled:
    """Compile src/<source>.cu for `architecture` ("sm_80", "sm_90a"), without any cache.

    `names`: the instantiations (default: all that are listed). Raises `DeviceError` with the
    compiler's first complaint.
    """
    nvrtc = importlib.import_module("cupy.cuda").nvrtc
    path = SOURCES / f"{source}.cu"
    wanted = INSTANTIATIONS[source] if names is None else names
    folders = [str(SOURCES), *include_folders()]
    options = (f"-arch={architecture}", *OPTIONS, *(f"-I{folder}" for folder in folders))
    program = nvrtc.createProgram(path.read_text(encoding="utf-8"), path.name, (), ())
    try:
        for name in wanted:
            nvrtc.addNameExpression(program, name)
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program).strip().splitlines()
            complaint = next((line for line in log if "error" in line), str(error))
            raise DeviceError(f"{path.name} does not compile: {complaint}") from error
        lowered = {name: nvrtc.getLoweredName(program, name) for name in wanted}
        lowered = {k: v.decode() if isinstance(v, bytes) else v for k, v in lowered.items()}
        log = nvrtc.getProgramLog(program)
        return Compiled(nvrtc.getCUBIN(program), lowered, _usage(log, lowered), log)
    finally:
        nvrtc.destroyProgram(program)


def load_or_compile(source: str, architecture: str) -> tuple[Path, dict[str, str]]:
    """The file with the cubin of a source, and the mangled name of each instantiation."""
    base = cache_folder() / f"{source}-{architecture}-{_fingerprint(source, architecture)}"
    cubin, names = base.with_suffix(".cubin"), base.with_suffix(".json")
    if not (cubin.is_file() and names.is_file()):
        compiled = compile_source(source, architecture)
        cubin.parent.mkdir(parents=True, exist_ok=True)
        _write(cubin, compiled.cubin)
        _write(names, json.dumps(compiled.names).encode())
    return cubin, json.loads(names.read_text(encoding="utf-8"))


def cache_folder() -> Path:
    """Where cubins are kept: $MINIRES_KERNEL_CACHE, or minires/ in the user's cache folder."""
    chosen = os.environ.get("MINIRES_KERNEL_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minires" / "kernels"


def _write(path: Path, content: bytes) -> None:
    """Write and rename, so that another process never sees half a file."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def _fingerprint(source: str, architecture: str) -> str:
    digest = hashlib.sha256()
    for path in (SOURCES / f"{source}.cu", *sorted(SOURCES.glob("*.cuh"))):
        digest.update(path.read_bytes())
    version = importlib.import_module("cupy.cuda").nvrtc.getVersion()
    digest.update(json.dumps([INSTANTIATIONS[source], architecture, version, OPTIONS]).encode())
    return digest.hexdigest()[:16]


def _usage(log: str, lowered: dict[str, str]) -> dict[str, Usage]:
    """Read ptxas's report: the line "Used N registers" follows the kernel's name."""
    by_symbol: dict[str, Usage] = {}
    symbol, stack, spills = "", 0, 0
    for line in log.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            symbol, stack, spills = found[1], 0, 0
        elif found := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            stack, spills = int(found[1]), int(found[2]) + int(found[3])
        elif found := re.search(r"Used (\d+) registers", line):
            by_symbol[symbol] = Usage(int(found[1]), stack, spills)
    return {name: by_symbol[mangled] for name, mangled in lowered.items() if mangled in by_symbol}
