from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from minires import backend, devices
from minires.backend import Device
from minires.errors import DeviceError, UsageError


@pytest.fixture(autouse=True)
def options(monkeypatch):
    """`select_device` sets these for the whole process: they are put back after the test."""
    for name, value in vars(backend.options).items():
        monkeypatch.setattr(backend.options, name, value)


@pytest.fixture
def fresh(monkeypatch):
    """Forgets whether there is a GPU, before and after."""
    devices.why_no_gpu.cache_clear()
    yield monkeypatch
    devices.why_no_gpu.cache_clear()


def fake_cupy(fresh, count=1, error=None, total=6, capability=(9, 0), headers=None):
    """Puts a module in the place of CuPy that has `count` GPUs, or raises `error` when used.

    `headers`: why the kernels of minires cannot be compiled.
    """

    class Context:
        def __init__(self, index=0):
            self.index = index

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def use(self):
            return self

        def synchronize(self):
            if error is not None:
                raise error

    properties = {"name": b"Test GPU", "totalGlobalMem": 2**34}
    properties |= {"major": capability[0], "minor": capability[1]}
    runtime = SimpleNamespace(
        getDeviceCount=lambda: count, getDeviceProperties=lambda index: properties
    )
    module = ModuleType("cupy")
    module.cuda = SimpleNamespace(runtime=runtime, Device=Context)
    module.arange = lambda n: np.full(n, total / 2 / n)
    fresh.setitem(sys.modules, "cupy", module)
    compiler = SimpleNamespace(why_not=lambda: headers)
    fresh.setitem(sys.modules, "minires.kernels.cuda.compile", compiler)


def test_no_cupy_names_the_pip_line(fresh):
    fresh.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError) as caught:
        devices.select_device("gpu")
    message = str(caught.value)
    assert message.startswith("--device gpu: CuPy is not installed")
    assert 'pip install -e ".[cuda13]"' in message and 'pip install -e ".[cuda12]"' in message
    assert caught.value.exit_code == 5 and "\n" not in message


@pytest.mark.parametrize(
    "error, fix",
    [
        (RuntimeError("cudaErrorNoDevice: no CUDA-capable device"), "nvidia-smi"),
        (RuntimeError("cudaErrorInsufficientDriver: too old"), 'pip install -e ".[cuda12]"'),
        (ImportError("libcuda.so.1: cannot open shared object file"), "driver"),
        (RuntimeError("something else\nwith two lines"), "python cli.py info"),
    ],
)
def test_a_gpu_that_fails_in_use_names_the_fix(fresh, error, fix):
    fake_cupy(fresh, error=error)
    with pytest.raises(DeviceError) as caught:
        devices.select_device("gpu")
    assert fix in str(caught.value) and "\n" not in str(caught.value)
    assert devices.select_device("auto") == Device("cpu")
    assert devices.describe_gpus() == []


def test_a_gpu_that_computes_nonsense_is_not_used(fresh):
    fake_cupy(fresh, total=7)
    with pytest.raises(DeviceError, match="computes wrong results"):
        devices.select_device("gpu")


@pytest.mark.parametrize("capability, fits", [((6, 1), False), ((7, 0), False), ((7, 5), True)])
def test_a_gpu_that_is_too_old_is_not_used(fresh, capability, fits):
    fake_cupy(fresh, capability=capability)
    assert (devices.why_no_gpu() is None) == fits
    if not fits:
        with pytest.raises(DeviceError) as caught:
            devices.select_device("gpu")
        found = "GPU 0 (Test GPU) has compute capability {}.{}".format(*capability)
        assert f"{found}, and minires needs 7.5 (a T4) or later" in str(caught.value)
        assert "use --device cpu" in str(caught.value) and caught.value.exit_code == 5
        assert devices.select_device("auto") == Device("cpu")


def test_a_gpu_that_nothing_can_be_compiled_for_is_not_used(fresh):
    fake_cupy(fresh, headers="the CUDA headers are not installed; pip brings them")
    with pytest.raises(DeviceError, match="--device gpu: the CUDA headers are not installed; pip"):
        devices.select_device("gpu")
    assert devices.select_device("auto") == Device("cpu")


def test_a_gpu_that_is_not_there_is_named(fresh):
    fake_cupy(fresh, count=2)
    with pytest.raises(DeviceError, match="there is no GPU 2; this machine has 2"):
        devices.select_device("gpu:2")


def test_a_gpu_that_works_is_taken(fresh):
    fake_cupy(fresh, count=2)
    fresh.setitem(sys.modules, "minires.kernels.cuda", ModuleType("minires.kernels.cuda"))
    chosen = []
    precision = SimpleNamespace(set_precision=chosen.append)
    fresh.setitem(sys.modules, "minires.kernels.cuda.precision", precision)
    assert devices.select_device("auto") == Device("gpu", 0)
    assert str(devices.select_device("gpu:1", precision="bf16")) == "gpu:1"
    assert chosen == ["fp32", "bf16"]
    assert [gpu["name"] for gpu in devices.describe_gpus()] == ["gpu:0", "gpu:1"]
    assert devices.describe_gpus()[0]["model"] == "Test GPU"


def test_the_kernels_of_a_gpu_are_checked(fresh):
    said = []
    module = SimpleNamespace(check_rungs=lambda say: say("checked"))
    fresh.setitem(sys.modules, "minires.kernels.cuda.self_check", module)
    devices.check_kernels(Device("cpu"), said.append)
    assert not said
    devices.check_kernels(Device("gpu"), said.append)
    assert said == ["checked"]


@pytest.mark.parametrize("name", ["", "cuda", "gpu:x", "gpu:-1", "cpu:1", "auto:0", "GPU"])
def test_a_device_that_means_nothing(name):
    with pytest.raises(UsageError, match="use auto, cpu, gpu or gpu:1"):
        devices.select_device(name)


@pytest.mark.parametrize("threads", [0, -1])
def test_an_impossible_number_of_threads(threads):
    with pytest.raises(UsageError, match=f"--threads {threads}: must be at least 1"):
        devices.select_device("cpu", threads)


def test_an_unknown_convolution():
    with pytest.raises(UsageError, match="--conv fft: unknown; use auto or direct"):
        devices.select_device("cpu", conv="fft")
