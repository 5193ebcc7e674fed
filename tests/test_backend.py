from __future__ import annotations

import numpy as np
import pytest

from minires import backend, devices
from minires.backend import Device


@pytest.fixture(autouse=True)
def options(monkeypatch):
    """`select_device` sets these for the whole process: they are put back after the test."""
    for name, value in vars(backend.options).items():
        monkeypatch.setattr(backend.options, name, value)


@pytest.fixture
def table(monkeypatch):
    """An empty table of kernels with one operation, `double`; the real ones come back after."""
    monkeypatch.setattr(backend, "OPERATIONS", {})
    monkeypatch.setattr(backend, "_kernels", {})
    backend.reset_fallback_counts()

    @backend.operation
    def double(x, factor=2):
        return x * factor

    yield double
    backend.reset_fallback_counts()


@pytest.fixture
def calls(table):
    """Registers a kernel for `double` on the CPU that notes its calls and declines odd sizes."""
    seen = []

    @backend.kernel("double", "cpu")
    def fast(x, factor=2):
        x = x[0] if isinstance(x, tuple) else x
        if x.size % 2:
            return NotImplemented
        seen.append(x.dtype.name)
        return x + x

    return seen


def test_without_a_kernel_the_reference_runs(table):
    np.testing.assert_array_equal(table(np.ones(2, np.float32)), 2)
    assert backend.kernel_table() == [("double", "cpu", "reference")]


def test_a_kernel_runs_in_its_place(table, calls):
    np.testing.assert_array_equal(table(np.ones(2, np.float32)), 2)
    assert calls == ["float32"]
    assert backend.kernel_table()[0].kernel != "reference"
    assert backend.kernel_table("gpu")[0].kernel == "reference"
    assert table.reference(np.ones(2, np.float32), 3)[0] == 3


def test_float64_never_reaches_a_kernel(table, calls):
    table(np.ones(2))
    assert calls == []
    assert backend.fallback_counts() == {}


def test_a_cache_tells_the_dtype_as_well(table, calls):
    table((np.ones(2, np.float32), 1))
    assert calls == ["float32"]


def test_a_kernel_that_declines_leaves_it_to_the_reference_and_is_counted(table, calls):
    np.testing.assert_array_equal(table(np.ones(3, np.float32)), 2)
    assert calls == []
    assert backend.fallback_counts() == {"double": 1}
    backend.reset_fallback_counts()
    assert backend.fallback_counts() == {}


def test_reference_only(table, calls):
    with backend.reference_only():
        table(np.ones(2, np.float32))
        with backend.reference_only():
            pass
        table(np.ones(2, np.float32))
    assert calls == []
    with pytest.raises(ZeroDivisionError), backend.reference_only():
        raise ZeroDivisionError
    table(np.ones(2, np.float32))
    assert calls == ["float32"]


def test_float64_takes_the_reference_of_the_real_operations():
    # the CPU kernels are fast and float32 alone: the proof of the mathematics never meets them
    from minires import functional as F

    devices.select_device("cpu", 1)
    x, weight = np.ones((2, 4, 6, 6)), np.ones((4, 4, 3, 3))
    statistics = np.ones(4), np.zeros(4), np.zeros(4), np.ones(4)
    found, _ = F.conv_bn_relu_forward(x, weight, *statistics, padding=1)
    wanted, _ = F.conv_bn_relu_forward.reference(x, weight, *statistics, padding=1)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, wanted)


# --- arrays ---------------------------------------------------------------------------------


def test_arrays_on_the_cpu_stay_where_they_are():
    array = np.ones(3)
    assert backend.array_module(array, None) is np
    assert backend.to_host(array) is array
    assert backend.to_device(array, backend.CPU) is array
    backend.synchronize(backend.CPU)
    assert str(backend.CPU) == "cpu"


@pytest.mark.parametrize(
    "dtype, wanted", [("float16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_accumulation_dtype(dtype, wanted):
    assert backend.accumulation_dtype(dtype) == np.dtype(wanted)


def test_weight_layouts_are_orders_of_the_axes():
    assert sorted(backend.weight_layout(backend.CPU)) == [0, 1, 2, 3]
    assert sorted(backend.weight_layout(Device("gpu"))) == [0, 1, 2, 3]
