"""What the driver is told about arrays, where windows lie, and when TMA is used: no GPU needed."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest
from kernels.cuda import tensor_map_driver
from kernels.cuda.tensor_map_driver import IM2COL, TILED, driver_function, encoded, refused
from kernels.cuda.twin_runtime import RecordingRuntime

from minires.errors import DeviceError
from minires.kernels.cuda import runtime, tensor_maps, tma
from minires.kernels.cuda.conv2d import strategy
from minires.kernels.cuda.hopper import Hopper
from minires.kernels.cuda.tensor_maps import (
    backward_windows,
    forward_windows,
    matrix_map,
    window_map,
)
from minires.kernels.cuda.tma import Tma


@pytest.fixture(autouse=True)
def place(monkeypatch):
    """A Hopper GPU whose driver checks what it is told; nothing runs."""
    monkeypatch.delenv(tma.SWITCH, raising=False)
    tensor_maps._call.cache_clear()
    refused.clear()
    encoded.clear()
    with runtime.use(RecordingRuntime(capability=90)) as recorder:
        yield recorder


GEOMETRIES = [
    (size, taps, stride, padding)
    for size, taps, stride, padding in itertools.product(
        (1, 2, 4, 7, 8, 32), (1, 2, 3, 5), (1, 2), (0, 1, 2)
    )
    if size + 2 * padding >= taps
]


def walk(windows):
    """The first pixels of the windows, as the box's corners and the step make a copy go through."""
    lower, upper = windows.corners
    return list(range(lower, windows.size - 1 + upper + 1, windows.step))


@pytest.mark.parametrize("size, taps, stride, padding", GEOMETRIES)
def test_a_box_holds_the_windows_of_a_convolution(size, taps, stride, padding):
    count = (size + 2 * padding - taps) // stride + 1
    windows = forward_windows(size, count, taps, stride, padding)
    assert walk(windows) == [i * stride - padding for i in range(count)]
    assert windows.taps == taps and windows.fits


@pytest.mark.parametrize("size, taps, stride, padding", GEOMETRIES)
def test_a_box_holds_the_gradients_that_reach_each_pixel(size, taps, stride, padding):
    count = (size + 2 * padding - taps) // stride + 1
    for parity in range(stride):
        pixels = range(parity, size, stride)
        windows = backward_windows(count, size, taps, stride, padding, parity)
        reaching = [
            {p for p in range(count) for r in range(taps) if p * stride - padding + r == pixel}
            for pixel in pixels
        ]
        assert windows.count == len(pixels)
        if windows.is_empty:
            assert not any(reaching)
            continue
        assert windows.fits
        starts = walk(windows)
        read = [{start + tap for tap in range(windows.taps)} for start in starts]
        assert [places & set(range(count)) for places in read] == reaching


def test_what_the_driver_is_told():
    """A layer of 64 channels, 3 x 3 and stride 2, on two images of 8 x 9, and its weights."""
    down, across = forward_windows(8, 4, 3, 2, 1), forward_windows(9, 5, 3, 2, 1)
    made = window_map(0x1000, (2, 8, 9, 64), "bfloat16", down, across, 128)
    assert len(made) == 128
    # C W H N; corners W before H; windows begin at -1 to 7 of 9 and at -1 to 5 of 8
    wanted = (IM2COL, 0x1000, (64, 9, 8, 2), (-1, -1), (-1, -2), (64, 128), (1, 2, 2, 1))
    assert encoded == [wanted]
    matrix_map(0x2000, 128, 576, "float16", 256)
    assert encoded[1] == (TILED, 0x2000, (576, 128), (0, 0), (0, 0), (64, 256), (1, 1))
    assert not refused


def test_the_driver_is_asked_once_for_each_array_and_geometry():
    for address in (0x1000, 0x1000, 0x2000):
        matrix_map(address, 64, 64, "float16", 64)
    assert len(encoded) == 2


def test_what_the_driver_refuses_is_one_line():
    with pytest.raises(DeviceError) as info:
        matrix_map(0x1008, 64, 64, "float16", 64)
    line = "cuTensorMapEncodeTiled failed with CUDA error 1; MINIRES_TMA=0 does without it"
    assert str(info.value) == line
    assert refused == ["globalAddress must be 16 byte aligned"]


def call(name, place, *arguments):
    """Call the driver as it is, with tuples of (type, values) as arrays."""
    values = [(a[0] * len(a[1]))(*a[1]) if isinstance(a, tuple) else a for a in arguments]
    return tensor_maps._PROTOTYPES[name](driver_function(name))(place, *values)


U64, U32, INT = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int
TILED_CALL = [6, 2, 0x1000, (U64, (64, 64)), (U64, (128,)), (U32, (64, 64)), (U32, (1, 1)),
              0, 3, 2, 0]  # fmt: skip
IM2COL_CALL = [6, 4, 0x1000, (U64, (64, 8, 8, 2)), (U64, (128, 1024, 8192)), (INT, (-1, -1)),
               (INT, (-1, -1)), 64, 128, (U32, (1, 1, 1, 1)), 0, 3, 2, 0]  # fmt: skip
BROKEN = [
    ("cuTensorMapEncodeTiled", 0, 7, "FLOAT16"),
    ("cuTensorMapEncodeTiled", 2, 0x1008, "globalAddress"),
    ("cuTensorMapEncodeTiled", 3, (U64, (64, 0)), "globalDim"),
    ("cuTensorMapEncodeTiled", 4, (U64, (136,)), "globalStrides"),
    ("cuTensorMapEncodeTiled", 4, (U64, (64,)), "stride"),
    ("cuTensorMapEncodeTiled", 5, (U32, (64, 257)), "boxDim"),
    ("cuTensorMapEncodeTiled", 5, (U32, (128, 64)), "inner dimension"),
    ("cuTensorMapEncodeTiled", 6, (U32, (1, 9)), "elementStrides"),
    ("cuTensorMapEncodeTiled", 8, 2, "SWIZZLE"),
    ("cuTensorMapEncodeIm2col", 1, 3, "tensorRank"),
    ("cuTensorMapEncodeIm2col", 5, (INT, (-129, -1)), "corners"),
    ("cuTensorMapEncodeIm2col", 6, (INT, (-1, 128)), "corners"),
    ("cuTensorMapEncodeIm2col", 6, (INT, (-9, -1)), "non-zero area"),
    ("cuTensorMapEncodeIm2col", 7, 128, "inner dimension"),
    ("cuTensorMapEncodeIm2col", 8, 1025, "pixelsPerColumn"),
    ("cuTensorMapEncodeIm2col", 9, (U32, (1, 0, 1, 1)), "elementStrides"),
    ("cuTensorMapEncodeIm2col", 13, 1, "zeros"),
]


@pytest.mark.parametrize("name, index, value, rule", BROKEN)
def test_the_driver_of_the_tests_checks_what_the_documentation_says(name, index, value, rule):
    good = list(TILED_CALL if name.endswith("Tiled") else IM2COL_CALL)
    memory = (ctypes.c_uint8 * 256)()
    place = ctypes.addressof(memory) + -ctypes.addressof(memory) % 64
    assert call(name, place, *good) == 0 and not refused
    assert call(name, place + 16, *good) == tensor_map_driver.INVALID_VALUE
    assert "64 bytes" in refused.pop()
    good[index] = value
    assert call(name, place, *good) == tensor_map_driver.INVALID_VALUE
    assert rule in refused[0]


def rung(monkeypatch, switch=None, dtype=np.float16):
    """The rung that a convolution gets."""
    if switch is not None:
        monkeypatch.setenv(tma.SWITCH, switch)
    x, weight = np.zeros((1, 64, 4, 4), dtype), np.zeros((64, 64, 3, 3), np.float32)
    return type(strategy(x, weight, 1, 1))


@pytest.mark.parametrize(
    "switch, wanted", [(None, Hopper), ("", Hopper), ("0", Hopper), ("1", Tma)]
)
def test_tma_is_used_where_it_is_asked_for(switch, wanted, monkeypatch):
    assert rung(monkeypatch, switch) is wanted


def test_a_choice_goes_before_the_environment(monkeypatch):
    with tma.chosen(False):
        assert rung(monkeypatch, "1") is Hopper
    assert rung(monkeypatch) is Tma


@pytest.mark.parametrize("missing", ["cuTensorMapEncodeIm2col", "cuTensorMapEncodeTiled"])
def test_without_the_functions_the_rung_below_runs(missing, place, monkeypatch):
    place.driver_function = lambda name: None if name == missing else driver_function(name)
    assert rung(monkeypatch, "1") is Hopper


def test_other_gpus_and_float32_do_without(place, monkeypatch):
    assert rung(monkeypatch, "1", np.float32) not in (Hopper, Tma)
    place.capability = lambda: 100
    assert not issubclass(rung(monkeypatch, "1"), Hopper)


@pytest.mark.parametrize(
    "padding, taps, stride, fits",
    [(128, 3, 1, True), (129, 3, 1, False), (0, 129, 1, True), (0, 130, 1, False),
     (128, 256, 1, True), (128, 257, 1, False), (0, 3, 8, True), (0, 3, 9, False)],
)  # fmt: skip
def test_what_is_beyond_a_map(padding, taps, stride, fits):
    """Corners below -128 or above 127, offsets of more than 8 bits, strides above 8."""
    size = taps + 100
    count = (size + 2 * padding - taps) // stride + 1
    assert forward_windows(size, count, taps, stride, padding).fits is fits


def test_maps_are_one_argument_that_cupy_takes_by_value():
    """CuPy passes a NumPy array of one element by value, and nothing else of such a size."""
    argument = tensor_maps.together(bytes(range(128)), bytes(128))
    assert isinstance(argument, np.ndarray) and argument.size == 1 and argument.itemsize == 256
    assert argument.tobytes() == bytes(range(128)) + bytes(128)


def test_a_machine_without_the_driver_or_with_an_old_one(monkeypatch):
    this_process = ctypes.CDLL(None)

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    for library in (missing, lambda name: this_process):
        runtime._driver_function.cache_clear()
        monkeypatch.setattr(runtime.ctypes, "CDLL", library)
        assert runtime.CupyRuntime().driver_function("cuTensorMapEncodeIm2col") is None
    runtime._driver_function.cache_clear()
