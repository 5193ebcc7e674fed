"""The check before a training, with errors planted in kernels, on the CPU: see test_on_cpu.py."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.cuda.checking import TYPES
from kernels.cuda.twin_runtime import TwinRuntime

from minires.backend import options
from minires.errors import DeviceError
from minires.kernels.cuda import conv2d, hopper, precision, runtime, self_check, tma
from minires.kernels.cuda.columns import Columns
from minires.kernels.cuda.hopper import Hopper
from minires.kernels.cuda.implicit import Implicit
from minires.kernels.cuda.instantiations import HOPPER_TILES, HOPPER_WEIGHT_TILES

CASES = self_check.CASES
SMALL = (self_check.Case(2, 3, 6, 16, 3, 1), self_check.Case(2, 16, 7, 72, 3, 2))


class Planted(TwinRuntime):
    """Zeroes a quarter of one array that a kernel writes, or fails to launch it."""

    def __init__(self, kernel=None, place=2, error=None, broken=False, capability=90):
        super().__init__(capability)
        self.kernel, self.place, self.error, self.broken = kernel, place, error, broken
        self.failed = False

    def launch(self, source, name, grid, block, arguments, shared):
        hit = self.kernel is not None and name.split("<")[0] == self.kernel
        if hit and self.error is not None:
            self.failed = True
            raise self.error
        super().launch(source, name, grid, block, arguments, shared)
        if hit and arguments[self.place] is not None:
            array = arguments[self.place].reshape(-1)
            array[: -(-array.size // 4)] = 0

    def constant(self, values):
        if self.failed and self.broken:
            raise RuntimeError("an illegal memory access was encountered")
        return super().constant(values)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing checked and nothing switched off, before and after; small convolutions."""
    monkeypatch.setattr(self_check, "CASES", SMALL)
    monkeypatch.setattr(options, "conv", "auto")
    self_check._checked.clear()
    conv2d.switched_off.clear()
    yield
    self_check._checked.clear()
    conv2d.switched_off.clear()


def check(monkeypatch, name="fp16", **how):
    """What the check says, and the runtime that it ran on."""
    monkeypatch.setattr(precision, "current", precision.PRECISIONS[name])
    said = []
    with runtime.use(Planted(**how)) as twin:
        self_check.check_rungs(said.append)
        left = conv2d.rungs(precision.current.dtype)
    return said, left, {name.split("<")[0] for _, name in twin.launches}


def test_right_kernels_all_stay_and_are_checked_once(monkeypatch):
    said, left, launched = check(monkeypatch)
    assert not said and left == [Hopper, Implicit, Columns]
    wanted = {"convolve_wgmma", "convolve", "im2col", "weight_gradient_wgmma", "weight_gradient"}
    assert launched >= wanted
    assert check(monkeypatch) == ([], left, set())
    if "bfloat16" in TYPES:
        assert check(monkeypatch, "bf16")[:2] == ([], left)
    for name, capability in (("fp16", 75), ("fp32", 90), ("tf32", 90)):
        self_check._checked.clear()
        said, left, _ = check(monkeypatch, name, capability=capability)
        assert not said and left == [Columns]


@pytest.mark.parametrize(
    "kernel, place, part, left",
    [
        ("convolve_wgmma", 2, "output", [Implicit, Columns]),
        ("convolve_wgmma", 3, "statistics", [Implicit, Columns]),
        ("weight_gradient_wgmma", 2, "gradient of the weights", [Implicit, Columns]),
        ("convolve", 2, "output", [Hopper, Columns]),
        ("weight_gradient", 2, "gradient of the weights", [Columns]),  # Hopper borrows it
        ("col2im", 1, "gradient of the input", [Hopper, Implicit]),
    ],
)
def test_a_rung_that_differs_is_switched_off(kernel, place, part, left, monkeypatch):
    said, stayed, _ = check(monkeypatch, kernel=kernel, place=place)
    assert stayed == left
    assert {line.split()[1] for line in said} == {
        rung.__name__ for rung in (Hopper, Implicit, Columns) if rung not in left
    }
    assert len(said) == 3 - len(left), "one line for each"
    for line in said:
        assert line.startswith("warning: ") and "\n" not in line
        assert f"the {part} differs from " in line and line.endswith("please report this line")


@pytest.mark.parametrize("kernel", [None, "convolve_tma", "weight_gradient_tma"])
def test_the_rung_of_tma_is_checked_where_it_is_asked_for(kernel, monkeypatch):
    monkeypatch.setattr(self_check, "CASES", (self_check.Case(2, 64, 6, 64, 3, 1),))
    with tma.chosen(True):
        said, left, launched = check(monkeypatch, kernel=kernel, place=1)
    assert launched >= {"convolve_tma", "weight_gradient_tma", "convolve_wgmma"}
    assert left == [tma.Tma, Hopper, Implicit, Columns][kernel is not None :]
    assert len(said) == (kernel is not None)


def test_without_any_rung_the_reference_runs(monkeypatch):
    said, left, _ = check(monkeypatch, "fp32", kernel="im2col", place=1)
    assert len(said) == 1 and not left
    x, weight = np.ones((1, 3, 4, 4), np.float32), np.ones((2, 3, 3, 3), np.float32)
    assert conv2d.conv2d_forward(x, weight, None, 1, 1) is NotImplemented


def test_a_kernel_that_cannot_be_launched_is_switched_off(monkeypatch):
    error = RuntimeError("CUDA_ERROR_INVALID_IMAGE: not for this GPU\nmore")
    said, left, _ = check(monkeypatch, kernel="convolve_wgmma", error=error)
    assert left == [Implicit, Columns]
    [line] = said
    assert "CUDA_ERROR_INVALID_IMAGE: not for this GPU" in line and "more" not in line


def test_a_gpu_that_stops_working_ends_it_in_one_line(monkeypatch):
    error = RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")
    with pytest.raises(DeviceError, match="stopped working in the check of Implicit") as caught:
        check(monkeypatch, kernel="convolve", error=error, broken=True)
    assert "--conv direct or --device cpu" in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 5


def test_too_little_memory_is_left_to_the_training(monkeypatch):
    said, left, _ = check(monkeypatch, kernel="convolve", error=MemoryError())
    assert not said and left == [Hopper, Implicit, Columns]
    assert not self_check._checked


def test_the_cases_reach_every_tile_of_hopper():
    """What runs in a training of ResNet-18 or ResNet-20 must have been checked."""
    forward, weights = set(), set()
    for case in CASES:
        rows = case.n * (case.side // case.stride) ** 2
        forward.add(hopper.convolve_tile(case.k, rows))
        if case.k >= hopper.NARROW:
            weights.add(hopper.weight_tile(case.k, case.kernel**2 * -(-case.c // 8) * 8))
    assert forward == set(HOPPER_TILES) and weights == set(HOPPER_WEIGHT_TILES)


class OnDevice(np.ndarray):
    """An array of 16-bit values comes home as it lies, and nothing else is done with it."""

    def astype(self, *arguments, **options):
        assert self.dtype.itemsize > 2, "a kernel of CuPy's for 16-bit types"
        return super().astype(*arguments, **options)


def test_the_check_needs_no_kernel_of_cupys_for_16_bit_types(monkeypatch):
    def home(array):
        assert array.dtype.itemsize > 2 or array.flags.c_contiguous, "CuPy would have to copy it"
        return np.array(array)

    class Place(Planted):
        def empty(self, shape, dtype):
            return super().empty(shape, dtype).view(OnDevice)

        def constant(self, values):
            return super().constant(values).view(OnDevice)

        def product(self, a, b, out, *how):  # cuBLAS, not CuPy
            super().product(*(array.view(np.ndarray) for array in (a, b, out)), *how)

    monkeypatch.setattr(precision, "current", precision.PRECISIONS["fp16"])
    monkeypatch.setattr(self_check, "to_host", home)
    said = []
    with runtime.use(Place()):
        self_check.check_rungs(said.append)
        assert not said and conv2d.rungs(np.dtype(np.float16)) == [Hopper, Implicit, Columns]
