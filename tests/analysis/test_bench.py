"""The benchmark on tiny networks: what it checks, counts and reports; never how fast it is."""

from __future__ import annotations

import functools
import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from minires import backend, devices
from minires.analysis import bench_machine, bench_run, bench_timing
from minires.analysis.bench_contenders import (
    LAYOUTS,
    TRAINING,
    MiniresContender,
    TorchContender,
    available_loops,
    choose_loops,
    loops_restored,
    random_batch,
)
from minires.analysis.bench_data import data_path
from minires.analysis.bench_operations import Tally, operation_shares, traffic
from minires.analysis.bench_run import BenchConfig, flops_per_image, run_benchmark
from minires.backend import CPU, Device
from minires.cli.bench import command
from minires.errors import MiniresError, UsageError
from minires.models import build

SMALL = {"model": "resnet8", "batch_size": 4, "device": "cpu", "threads": 2, "rounds": 1}


@pytest.fixture(autouse=True)
def small_and_restored(monkeypatch):
    """Small matrix products for the peak; the kernels' options and loops as they were before."""
    monkeypatch.setattr(bench_machine, "GEMM_SIZES", (32,))
    monkeypatch.setattr(backend.options, "threads", backend.options.threads)
    monkeypatch.setattr(backend.options, "conv", backend.options.conv)
    device = devices.select_device("cpu", 2)
    with loops_restored(device):
        yield
    backend.reset_fallback_counts()


def quiet(line: str) -> None:
    """Nobody is told."""


def run(**settings) -> dict:
    return run_benchmark(BenchConfig(**{**SMALL, "memory": False, **settings}), quiet)


def cli(*options: str):
    arguments = ["--depth", "8", "--batch-size", "4", "--device", "cpu", "--rounds", "1"]
    return CliRunner().invoke(command, [*arguments, *options], standalone_mode=False)


# --- precisions, and what only a GPU runs ---------------------------------------------------


def test_a_gpu_meets_every_mode_of_torch_compile():
    gpu = bench_run.torch_variants(Device("gpu"), None)
    assert gpu[:2] == [("nchw", None), ("channels_last", None)]
    assert [mode for layout, mode in gpu[2:] if layout == "channels_last"] == [
        "default", "reduce-overhead", "max-autotune",
    ]  # fmt: skip
    assert bench_run.torch_variants(Device("gpu"), False) == gpu[:2]
    assert bench_run.torch_variants(CPU, None) == gpu[:2]
    compiled = bench_run.torch_variants(CPU, True)[2:]
    assert compiled == [(layout, "default") for layout in LAYOUTS]


def test_both_rungs_run_where_tma_is_asked_for(monkeypatch):
    from kernels.cuda.twin_runtime import RecordingRuntime

    from minires.kernels.cuda import conv2d, precision, runtime, tma

    gpu = Device("gpu")
    monkeypatch.delenv(tma.SWITCH, raising=False)
    monkeypatch.setattr(precision, "current", precision.PRECISIONS["fp16"])
    with runtime.use(RecordingRuntime(capability=90)):
        assert available_loops(gpu) == [None]
        monkeypatch.setenv(tma.SWITCH, "1")
        with loops_restored(gpu):
            assert available_loops(gpu) == ["wgmma", "tma"]
            for name in available_loops(gpu):
                choose_loops(name)
                assert tma.is_on() == (name == "tma")
        assert tma.is_on()
        with monkeypatch.context() as found_wrong:
            found_wrong.setattr(conv2d, "switched_off", {tma.Tma})
            assert available_loops(gpu) == [None]
        monkeypatch.setattr(precision, "current", precision.PRECISIONS["fp32"])
        assert available_loops(gpu) == [None]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_pytorch_computes_in_the_same_precision(precision):
    torch = pytest.importorskip("torch")
    spec, batch = build("resnet8", width=0.5).spec, random_batch(4)
    twin = TorchContender(spec, batch, CPU, 1, "channels_last", precision=precision)
    seen = []
    twin.model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    twin.prepare(TRAINING)
    twin.run()
    assert seen == [{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]]
    assert (twin._scaler is not None) == (precision == "fp16")
    assert all(p.dtype == torch.float32 for p in twin.model.parameters())


def test_modes_of_torch_compile_have_names_of_their_own(monkeypatch):
    torch = pytest.importorskip("torch")
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **how: asked.append(how) or model)
    spec, batch = build("resnet8").spec, random_batch(2)
    names = [
        TorchContender(spec, batch, CPU, 1, "channels_last", mode).name
        for mode in (None, "default", "max-autotune")
    ]
    kinds = ["", "-compile", "-max-autotune"]
    assert names == [f"torch-channels_last{kind}" for kind in kinds]
    assert asked == [{}, {"mode": "max-autotune"}]


def test_traffic_counts_each_array_once():
    a, b = np.zeros(100, np.float32), np.zeros((2, 5), np.float64)
    assert traffic((a, (b, 3, None)), {"again": a.reshape(10, 10)}, (a[:50], b.T)) == 400 + 80


def test_the_roof_is_the_slower_of_arithmetic_and_traffic():
    tally = Tally(1, seconds=2.0, flops=50.0, bytes=10.0)
    assert tally.share_of_roof(peak=100.0, bandwidth=100.0) == 0.25
    assert tally.share_of_roof(peak=1000.0, bandwidth=10.0) == 0.5
    assert tally.share_of_roof(peak=1000.0, bandwidth=None) is None


def test_several_steps_in_one_go_are_timed_as_one_each(monkeypatch):
    contender = MiniresContender(build("resnet8", width=0.25).spec, random_batch(2), CPU, "numpy")
    contender.repeats = 3
    counted = []
    monkeypatch.setattr(contender, "begin", lambda: counted.append("begin"))
    monkeypatch.setattr(contender, "finish", lambda: counted.append("finish"))
    clock = iter([10.0, 16.0])
    monkeypatch.setattr(bench_timing.time, "perf_counter", lambda: next(clock))
    assert bench_timing._time_once(contender, TRAINING) == 2.0
    assert counted == ["begin"] * 3 + ["finish"]


# --- the report -----------------------------------------------------------------------------


def test_json_holds_the_promised_keys(monkeypatch):
    monkeypatch.setattr(bench_run, "data_path", functools.partial(data_path, images=64))
    result = cli("--threads", "2", "--no-memory", "--data", "--json")
    assert result.exception is None
    report = json.loads(result.stdout)
    assert {"machine", "checks", "results", "operations", "fallbacks", "data"} <= set(report)
    assert {"cpu", "cores", "threads", "numpy", "torch"} <= set(report["machine"])
    for row in report["results"]:
        assert {
            "name",
            "model",
            "mode",
            "images_per_second",
            "ratio_to_torch",
            "peak_memory_bytes",
        } <= set(row)
        assert row["model"] == "resnet8" and row["images_per_second"] > 0
    assert {row["mode"] for row in report["results"]} == {"training", "inference"}
    assert 0 < report["data"]["share_of_epoch"] < 1
    assert all(check["passed"] for found in report["checks"].values() for check in found)


def test_without_torch_the_own_part_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(bench_run, "why_no_gpu", lambda: "CuPy is not installed")
    monkeypatch.setattr(bench_run, "check_kernels", lambda device, say: say(f"checked {device}"))
    report = run(against="torch", inference=False, loops="numpy", device="auto")
    assert [row["name"] for row in report["results"]] == ["minires-numpy"]
    assert report["results"][0]["ratio_to_torch"] is None
    assert any("PyTorch is not installed" in note for note in report["notes"])
    assert report["notes"][:2] == ["checked cpu", "no GPU: CuPy is not installed"]


def test_torch_runs_in_both_layouts_and_the_best_is_the_measure():
    pytest.importorskip("torch")
    report = run(against="torch", loops="numpy", rounds=3, threads=1)
    for mode in ("training", "inference"):
        rows = {row["name"]: row for row in report["results"] if row["mode"] == mode}
        assert set(rows) == {"minires-numpy", "torch-nchw", "torch-channels_last"}
        best = max(
            (row for name, row in rows.items() if name.startswith("torch")),
            key=lambda row: row["images_per_second"],
        )
        assert best["ratio_to_torch"] == 1.0
        ours = rows["minires-numpy"]
        pairs = zip(best["seconds"], ours["seconds"], strict=True)
        assert ours["ratio_to_torch"] == pytest.approx(np.median([b / a for b, a in pairs]))


def test_a_torch_compile_that_fails_is_noted_and_left_out(monkeypatch):
    torch = pytest.importorskip("torch")

    def broken(model):
        def call(x):
            raise RuntimeError("no C++ compiler\nlong story")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    report = run(against="torch", compile=True, loops="numpy", inference=False, threads=1)
    assert not any("compile" in row["name"] for row in report["results"])
    assert sum("RuntimeError: no C++ compiler" in note for note in report["notes"]) == 2


def test_both_loops_run_where_numba_is_and_the_choice_is_put_back():
    from minires.kernels.cpu import loops

    before = loops.compiled_in_use()
    expected = {"minires-numpy"} | ({"minires-numba"} if loops.why_not_compiled is None else set())
    report = run(inference=False)
    assert {row["name"] for row in report["results"]} == expected == set(report["operations"])
    assert loops.compiled_in_use() == before


def test_numba_that_is_not_there_is_a_usage_error(monkeypatch):
    from minires.kernels.cpu import loops

    monkeypatch.setattr(loops, "why_not_compiled", "not installed (numba)")
    with pytest.raises(UsageError, match="--loops numba: not installed"):
        run(loops="numba")


def test_the_tables_are_printed():
    result = cli("--no-memory", "--loops", "numpy")
    assert result.exception is None
    for text in ("training", "inference", "images/s", "conv_bn_relu_backward", "checked against"):
        assert text in result.stdout


@pytest.mark.parametrize(
    "options, message",
    [
        (["--model", "resnet20"], "give one of them"),
        (["--picture", "a.png"], "belongs to --ladder"),
        (["--ladder", "--picture", "a.doc"], "must end in"),
        (["--threads", "0"], "--threads 0"),
    ],
)
def test_options_that_make_no_sense(options, message):
    result = cli(*options)
    assert isinstance(result.exception, UsageError) and message in str(result.exception)


# --- strictness and checks ------------------------------------------------------------------


def test_strict_passes_where_no_kernel_declines():
    assert run(strict=True, inference=False)["fallbacks"] == {}


def test_direct_convolution_passes_its_checks():
    report = run(conv="direct", strict=True, inference=False)
    assert report["conv"] == "direct"


def test_strict_fails_when_a_kernel_declines(monkeypatch):
    monkeypatch.setitem(backend._kernels, ("add", "cpu"), lambda a, b: NotImplemented)
    assert run(inference=False, loops="numpy")["fallbacks"]["add"] > 0
    with pytest.raises(MiniresError, match="--strict: .* add [0-9]+ times") as caught:
        run(strict=True)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", ["conv_bn_relu_forward", "conv_bn_relu_backward", "add"])
def test_a_wrong_kernel_is_named_and_nothing_is_timed(monkeypatch, name):
    right = backend._kernels[name, "cpu"]

    def slightly_wrong(*args, **kwargs):
        result = right(*args, **kwargs)
        first = result[0] if isinstance(result, tuple) else result
        if first is not None:
            first *= np.float32(1.001)
        return result

    monkeypatch.setitem(backend._kernels, (name, "cpu"), slightly_wrong)
    monkeypatch.setattr(bench_run, "time_contenders", None)
    with pytest.raises(MiniresError, match=f"disagree with the reference in {name}"):
        run(loops="numpy")


def test_a_kernel_that_writes_into_its_input_is_caught(monkeypatch):
    right = backend._kernels["add", "cpu"]

    def careless(a, b):
        y = right(a, b)
        a += 1
        return y

    monkeypatch.setitem(backend._kernels, ("add", "cpu"), careless)
    with pytest.raises(MiniresError, match="in add"):
        run(loops="numpy")


def test_all_contenders_take_the_same_steps():
    torch = pytest.importorskip("torch")
    spec, batch = build("resnet8").spec, random_batch(4)
    ours = MiniresContender(spec, batch, CPU, "numpy")
    twins = [TorchContender(spec, batch, CPU, 1, layout) for layout in LAYOUTS]
    for contender in (ours, *twins):
        contender.prepare(TRAINING)
        for _ in range(3):
            contender.run()
    state = ours.model.state_dict()
    for twin in twins:
        for name, values in twin.model.state_dict().items():
            np.testing.assert_allclose(state[name], values.numpy(), rtol=1e-3, atol=1e-4)
    assert torch.get_num_threads() == 1


# --- what it counts -------------------------------------------------------------------------


def test_work_of_resnet20():
    """ResNet-20 with 32x32 images is known for 41 million multiply-adds."""
    flops = flops_per_image(build("resnet20").spec)
    assert flops["inference"] == pytest.approx(2 * 40.55e6, rel=0.01)
    first = 2 * 32 * 32 * 27 * 16
    assert flops["training"] == 3 * flops["inference"] - first


@pytest.mark.parametrize("reference", [False, True])
def test_shares_of_operations_add_up(reference):
    contender = MiniresContender(build("resnet8").spec, random_batch(2), CPU, "numpy")
    if reference:
        with backend.reference_only():
            shares = operation_shares(contender)
    else:
        shares = operation_shares(contender)
    assert sum(row["share"] for row in shares["operations"]) == pytest.approx(1)
    rows = {row["operation"]: row for row in shares["operations"]}
    assert rows["sgd_step"]["calls"] == 1
    assert rows["conv_bn_relu_forward"]["calls"] == 7
    assert ("conv2d_forward" in rows) == reference


def test_convolutions_are_told_apart_and_their_work_is_counted():
    contender = MiniresContender(build("resnet8").spec, random_batch(2), CPU, "numpy")
    rows = {
        (row["operation"], row["geometry"]): row
        for row in operation_shares(contender)["convolutions"]
    }
    row = rows["conv_bn_relu_backward", "3x3/2 16>32 at 32x32"]
    assert row["flops_per_second"] * row["seconds"] == pytest.approx(
        2 * 2 * (2 * 16 * 16 * 32 * 16 * 9)
    )
    stem = rows["conv_bn_relu_backward", "3x3 3>16 at 32x32"]  # without the pixels' gradient
    assert stem["flops_per_second"] * stem["seconds"] == pytest.approx(2 * 2 * 32 * 32 * 16 * 27)
    assert rows["conv_bn_relu_forward", "3x3 16>16 at 32x32"]["calls"] == 2


def test_data_path_share():
    data = data_path(16, CPU, train_seconds_per_image=1.0, say=quiet, images=64)
    assert data["share_of_epoch"] == pytest.approx(
        data["seconds_per_image"] / (1 + data["seconds_per_image"])
    )
