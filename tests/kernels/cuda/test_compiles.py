"""Every kernel compiles for each architecture with no GPU in sight, and within its registers."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from minires.kernels.cuda.compile import SOURCES, compile_source, why_not
from minires.kernels.cuda.instantiations import (
    CONVOLVE_TILES,
    HOPPER_SOURCES,
    HOPPER_STEP,
    HOPPER_THREADS,
    HOPPER_TILES,
    HOPPER_WEIGHT_TILES,
    INSTANTIATIONS,
    STAGES,
    STEP,
    WEIGHT_TILES,
)
from minires.kernels.cuda.tma import CLASSES

REASON = why_not()
needs_compiler = pytest.mark.skipif(
    REASON is not None, reason=f'{REASON}: pip install -e ".[cuda-check]"'
)

AMPERE_SOURCES = ("conv",)
"""Sources that need 8.0; a T4 does without them."""

CASES = [
    (source, architecture)
    for source in sorted(INSTANTIATIONS)
    for architecture in ("sm_75", "sm_80", "sm_90a")
    if architecture == "sm_90a" or source not in HOPPER_SOURCES
    if architecture != "sm_75" or source not in AMPERE_SOURCES
]

REGISTERS = {"conv": 128, "conv_wgmma": 168, "conv_tma": 224, "batch_norm": 128, "loss": 64}
"""At most so many per thread: blocks of conv.cu fit twice on a multiprocessor, Hopper's once."""


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
@pytest.mark.parametrize("source", HOPPER_SOURCES)
def test_products_of_a_warpgroup_run_side_by_side(source, compiled_sources):
    """ptxas says where it cannot leave them under way and waits after each."""
    log = compiled_sources[source, "sm_90a"].result().log
    assert "Compiling entry function" in log
    assert "serialized" not in log and "C75" not in log


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
    files = ("hopper.cuh", "conv_wgmma.cu", "conv_tma.cu")
    text = "".join((SOURCES / name).read_text() for name in files)
    names = ("HOPPER_STEP", "CONSUMERS", "PRODUCERS", "COPIERS")
    step, consumers, *copying = (
        int(re.search(rf"#define {name} (\d+)", text)[1]) for name in names
    )
    assert step == HOPPER_STEP
    assert [consumers + threads for threads in copying] == list(HOPPER_THREADS.values())
    assert int(re.search(r"TensorMap windows\[(\d+)\]", text)[1]) == CLASSES


@pytest.mark.parametrize("tile", CONVOLVE_TILES + WEIGHT_TILES)
def test_two_blocks_share_a_multiprocessor(tile):
    """sm_80 has 164 KiB of shared memory, of which each block takes 1 KiB for itself."""
    assert 2 * (tile.shared + 2 * 2 * 2 * 128 * 4 + 1024) <= 164 * 1024
    assert tile.threads <= 256


@pytest.mark.parametrize("tile", HOPPER_TILES + HOPPER_WEIGHT_TILES)
def test_the_tiles_of_hopper_fit_its_shared_memory(tile):
    """A block can have 227 of a multiprocessor's 228 KiB; narrow tiles are to fit twice."""
    assert tile.shared <= 227 * 1024
    if tile in HOPPER_TILES and tile.columns < 128:
        assert 2 * (tile.shared + 1024) <= 228 * 1024
