"""Every kernel compiles for both architectures with no GPU in sight, and within its registers."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from minires.kernels.cuda.compile import SOURCES, compile_source, why_not
from minires.kernels.cuda.instantiations import (
    CONVOLVE_TILES,
    INSTANTIATIONS,
    STAGES,
    STEP,
    WEIGHT_TILES,
    shared_bytes,
)

REASON = why_not()
needs_compiler = pytest.mark.skipif(
    REASON is not None, reason=f'{REASON}: pip install -e ".[cuda-check]"'
)

CASES = [(source, arch) for source in sorted(INSTANTIATIONS) for arch in ("sm_80", "sm_90a")]

REGISTERS = {"conv": 128, "batch_norm": 128, "loss": 64}
"""At most so many per thread: a convolution's 256 threads then fit twice on a multiprocessor."""


@pytest.fixture(scope="module")
def compiled_sources():
    """Every source for every architecture, each compiled once, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield {case: pool.submit(compile_source, *case) for case in CASES}
        pool.shutdown(cancel_futures=True)


@needs_compiler
@pytest.mark.parametrize("source, architecture", CASES)
def test_every_instantiation_compiles_without_spills(source, architecture, compiled_sources):
    compiled = compiled_sources[source, architecture].result()
    assert compiled.cubin[:4] == b"\x7fELF"
    assert set(compiled.usage) == set(INSTANTIATIONS[source])
    for name, usage in compiled.usage.items():
        assert usage.spills == 0 and usage.stack == 0, f"{name}: {usage}"
        assert usage.registers <= REGISTERS.get(source, 64), f"{name}: {usage}"


@needs_compiler
def test_a_mistake_is_named(tmp_path, monkeypatch):
    from minires.errors import DeviceError
    from minires.kernels.cuda import compile as module

    (tmp_path / "optimizer.cu").write_text("__global__ void sgd() { nonsense; }\n")
    monkeypatch.setattr(module, "SOURCES", tmp_path)
    with pytest.raises(DeviceError, match="optimizer.cu does not compile: .*nonsense"):
        compile_source("optimizer", "sm_80")


def test_every_kernel_of_every_source_is_instantiated():
    for path in SOURCES.glob("*.cu"):
        written = set(re.findall(r"__global__ void(?:\s+__launch_bounds__\(.*\))?\s+(\w+)\(",
                                 path.read_text()))  # fmt: skip
        written |= set(re.findall(r"__launch_bounds__\([^\n]*\)\n?\s+(\w+)\(", path.read_text()))
        listed = {name.split("<")[0] for name in INSTANTIATIONS[path.stem]}
        assert written == listed, path.name


def test_every_source_is_listed():
    assert {path.stem for path in SOURCES.glob("*.cu")} == set(INSTANTIATIONS)


def test_the_constants_are_those_of_the_source():
    text = (SOURCES / "conv.cu").read_text()
    assert re.search(r"#define STEP (\d+)", text)[1] == str(STEP)
    assert re.search(r"#define STAGES (\d+)", text)[1] == str(STAGES)


@pytest.mark.parametrize("tile", CONVOLVE_TILES + WEIGHT_TILES)
def test_two_blocks_share_a_multiprocessor(tile):
    """sm_80 has 164 KiB of shared memory, of which each block takes 1 KiB for itself."""
    assert 2 * (shared_bytes(tile) + 2 * 2 * 2 * 128 * 4 + 1024) <= 164 * 1024
    assert tile.threads <= 256
