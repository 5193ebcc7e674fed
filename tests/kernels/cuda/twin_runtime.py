"""Runtimes that stand in for CuPy: one runs the kernels on the CPU, one only records launches."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from kernels.cuda.tensor_map_driver import driver_function

from minires.kernels.cuda import runtime
from minires.kernels.cuda.compile import SOURCES
from minires.kernels.cuda.instantiations import (
    HOPPER_SOURCES,
    INSTANTIATIONS,
    STAGES,
    STEP,
    TYPES,
)

TWIN = Path(__file__).parent / "twin"
FLAGS = ["-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-DMINIRES_CPU_TWIN", "-w",
         "-Wno-psabi"]  # fmt: skip
SANITIZE = "MINIRES_TWIN_SANITIZE"
"""Set where the address sanitizer is loaded into the process: see test_on_cpu.py."""


def compiler() -> str | None:
    """The C++ compiler that builds the twin."""
    return shutil.which("g++")


@functools.cache
def library(source: str) -> ctypes.CDLL:
    """The kernels of src/<source>.cu, built for the CPU and kept in the temporary folder."""
    flags = [*FLAGS, "-fsanitize=address"] if os.environ.get(SANITIZE) else FLAGS
    code = _entry_points(source)
    digest = hashlib.sha256((code + str(flags)).encode())
    for path in sorted([*SOURCES.glob("*.cu*"), *TWIN.glob("*.h")]):
        digest.update(path.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"minires-twin-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    built = folder / f"{source}-{digest.hexdigest()[:16]}.so"
    if not built.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            path = Path(scratch) / "twin.cpp"
            path.write_text(code)
            target = path.with_suffix(".so")
            command = [compiler(), *flags, f"-I{TWIN}", f"-I{SOURCES}", str(path), "-o", target]
            subprocess.run(command, check=True)
            target.replace(built)
    return ctypes.CDLL(str(built))


def _entry_points(source: str) -> str:
    """C++ that includes the source and has one table of its instantiations."""
    names = INSTANTIATIONS[source]
    parameters = "const unsigned* grid, const unsigned* block, size_t shared, void** a, int count"
    lines = ['#include "ptx.cuh"', f'#include "{source}.cu"']
    lines += [f'extern "C" int run(int i, {parameters}) {{', "  switch (i) {"]
    for index, name in enumerate(names):
        lines.append(f"    case {index}: return twin::run({name}, grid, block, shared, a, count);")
    lines += ["  }", "  return -2;", "}"]
    lines += ['extern "C" void sizes(int i, int* out) {', "  switch (i) {"]
    for index, name in enumerate(names):
        lines.append(f"    case {index}: return twin::sizes({name}, out);")
    lines += ["  }", "}", ""]
    return "\n".join(lines)


def _is_on_device(argument) -> bool:
    """Whether this goes as an address: an array, but not a record, which stands for a struct."""
    return isinstance(argument, np.ndarray) and argument.dtype.names is None


def _aligned(content: bytes):
    """A copy of `content` at a multiple of 128, where a struct with tensor maps must lie."""
    memory = ctypes.create_string_buffer(len(content) + 128)
    copy = (ctypes.c_char * len(content)).from_buffer(memory, -ctypes.addressof(memory) % 128)
    copy.raw = content
    return copy


def _dimensions(values: tuple[int, ...]):
    return (ctypes.c_uint * 3)(*values, *[1] * (3 - len(values)))


class TwinRuntime:
    """Runs every launch on the CPU. New arrays hold NaN (integers: the most negative)."""

    def __init__(self, capability: int = 80) -> None:
        self.launches: list[tuple[str, str]] = []
        self.capability = lambda: capability

    def empty(self, shape, dtype):
        """A poisoned array: what is not written shows."""
        array = np.empty(int(np.prod(shape)), dtype)
        array.view(np.uint8)[...] = 0xFF if dtype.kind != "i" else 0x80
        return array.reshape(shape)

    def constant(self, values):
        return values.copy()

    def address(self, array):
        return array.ctypes.data

    def driver_function(self, name):
        return driver_function(name)

    def launch(self, source, name, grid, block, arguments, shared):
        self.launches.append((source, name))
        self.prepare(source, name, grid, block, arguments, shared)()

    def prepare(self, source, name, grid, block, arguments, shared):
        """The launch as a function of no arguments; of arrays it keeps the address alone."""
        index = INSTANTIATIONS[source].index(name)
        values = [
            ctypes.c_void_p(a.ctypes.data) if _is_on_device(a) else a.tobytes()
            for a in arguments
        ]
        sizes = (ctypes.c_int * 64)()
        lib = library(source)
        lib.sizes(index, sizes)
        given = [8 if isinstance(v, ctypes.c_void_p) else len(v) for v in values]
        assert given == list(sizes[: len(given)]), f"{name}: argument sizes {given}"
        held = [v if isinstance(v, ctypes.c_void_p) else _aligned(v) for v in values]
        pointers = (ctypes.c_void_p * len(held))(*[ctypes.addressof(v) for v in held])
        where = _dimensions(grid), _dimensions(block), ctypes.c_size_t(shared)

        def run():
            assert held  # what the pointers point to
            result = lib.run(index, *where, pointers, len(held))
            assert result == -1, f"{name} takes {result} arguments, got {len(held)}"

        return run

    def product(self, a, b, out, a_t, b_t, add, tf32):
        left, right = a.astype(np.float32), b.astype(np.float32)
        result = (left.T if a_t else left) @ (right.T if b_t else right)
        out[...] = (out + result if add else result).astype(out.dtype)


class RecordingRuntime:
    """Computes nothing: counts launches, and memory as a pool that gives freed blocks out again."""

    def __init__(self, capability: int = 80) -> None:
        self.launches: list[str] = []
        self.capability = lambda: capability
        self.fresh = 0
        self._blocks: dict[int, list[np.ndarray]] = {}

    def empty(self, shape, dtype):
        size = max(1, int(np.prod(shape))) * dtype.itemsize
        shelf = self._blocks.setdefault(-(-size // 512) * 512, [])
        for block in shelf:
            if sys.getrefcount(block) <= _UNUSED:
                break
        else:
            block = np.zeros(-(-size // 512) * 512, np.uint8)
            shelf.append(block)
            self.fresh += 1
        return block[:size].view(dtype)[: int(np.prod(shape))].reshape(shape)

    def constant(self, values):
        return values.copy()

    def address(self, array):
        return array.ctypes.data

    def driver_function(self, name):
        return driver_function(name)

    def launch(self, source, name, grid, block, arguments, shared):
        assert name in INSTANTIATIONS[source], f"{name} is not compiled"
        assert all(0 < g <= (2**31 - 1 if axis == 0 else 65535) for axis, g in enumerate(grid))
        most = 227 if source in HOPPER_SOURCES else 96
        assert 0 < int(np.prod(block)) <= 1024 and shared <= most * 1024
        for value in arguments:
            if isinstance(value, np.ndarray):
                assert value.size, f"{name} was given an empty array"
        self.launches.append(name)

    def product(self, a, b, out, a_t, b_t, add, tf32):
        rows, inner = a.shape[::-1] if a_t else a.shape
        other, columns = b.shape[::-1] if b_t else b.shape
        assert inner == other and out.shape == (rows, columns)
        assert all(v.flags.c_contiguous for v in (a, b, out))
        self.launches.append("product")


def _references_of_an_unused_block() -> int:
    shelf = [np.zeros(1)]
    for block in shelf:
        return sys.getrefcount(block)
    raise AssertionError


_UNUSED = _references_of_an_unused_block()

__all__ = ["RecordingRuntime", "STAGES", "STEP", "TYPES", "TwinRuntime", "compiler", "runtime"]
