"""The CPU kernels against the float64 reference, over the shapes where bugs hide.

Tolerances. A float32 convolution sums C kh kw products, each rounded to 2**-24, so its error grows
like the square root of that count; the transforms of Winograd multiply by up to 8 and divide by 24,
in two dimensions twice, which costs about one more digit. Errors are measured against the largest
value of the array.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernels.layouts import LAYOUTS

from minires import backend, devices
from minires import functional as F
from minires.kernels.cpu import (
    convolution,
    direct,
    elementwise,
    loops,
    strategies,
    strided,
    whole,
)
from minires.kernels.cpu.buffers import Workspace
from minires.kernels.cpu.regions import Region
from minires.kernels.cpu.threads import groups

WINOGRAD_TOLERANCE = 2e-5
DIRECT_TOLERANCE = 5e-6

#        N  C   K   H   W  kernel stride padding
CASES = [
    (3, 16, 16, 8, 8, 3, 1, 1),
    (1, 16, 32, 4, 12, 3, 1, 1),
    (5, 8, 24, 12, 4, 3, 1, 1),
    (2, 32, 8, 16, 8, 3, 1, 1),
    (3, 3, 16, 8, 8, 3, 1, 1),
    (2, 1, 5, 7, 9, 3, 1, 1),
    (3, 16, 16, 7, 5, 3, 1, 1),
    (3, 16, 32, 8, 8, 3, 2, 1),
    (3, 3, 5, 16, 24, 3, 2, 1),
    (1, 40, 24, 8, 16, 3, 2, 1),
    (2, 6, 10, 9, 7, 3, 2, 1),
    (4, 16, 32, 8, 6, 1, 2, 0),
    (1, 12, 7, 5, 5, 1, 1, 0),
    (2, 3, 8, 11, 13, 7, 2, 3),
    (2, 4, 4, 8, 8, 5, 1, 2),
    (2, 4, 4, 6, 9, 3, 1, 0),
]

NAMES = ("x", "weight", "gamma", "beta", "running_mean", "running_var", "shortcut")
LABELS = ("grad_x", "grad_weight", "grad_gamma", "grad_beta", "grad_shortcut")


@pytest.fixture(autouse=True)
def no_leftover_options():
    devices.select_device("cpu")
    backend.reset_fallback_counts()
    yield
    devices.select_device("cpu")


class Case:
    """Random float64 operands of one fused unit, and the same rounded to float32."""

    def __init__(self, shape, shortcut: bool, seed: int = 0) -> None:
        n, c, k, h, w, kernel, stride, padding = shape
        rng = np.random.default_rng([seed, *shape])
        p = (h + 2 * padding - kernel) // stride + 1
        q = (w + 2 * padding - kernel) // stride + 1
        single = {
            "x": rng.standard_normal((n, c, h, w)) + 0.5,
            "weight": rng.standard_normal((k, c, kernel, kernel)) / (c * kernel**2) ** 0.5,
            "gamma": rng.uniform(0.5, 1.5, k),
            "beta": rng.standard_normal(k),
            "running_mean": rng.standard_normal(k),
            "running_var": rng.uniform(0.5, 2.0, k),
            "shortcut": rng.standard_normal((n, k, p, q)) if shortcut else None,
        }
        self.grad = rng.standard_normal((n, k, p, q)).astype(np.float32)
        self.single = {
            name: None if v is None else v.astype(np.float32) for name, v in single.items()
        }
        self.geometry = {"stride": stride, "padding": padding}

    def arguments(self, dtype) -> dict:
        return {n: None if v is None else v.astype(dtype) for n, v in self.single.items()}

    def run(self, dtype, layout=lambda v: v, **options):
        """Forward and backward: outputs, gradients and running buffers by name."""
        arguments = self.arguments(dtype)
        arguments["x"] = layout(arguments["x"])
        ordered = (arguments[n] for n in NAMES)
        y, cache = F.conv_bn_relu_forward(*ordered, **self.geometry, **options)
        results = {"y": y.copy(), "running_mean": arguments["running_mean"]}
        results["running_var"] = arguments["running_var"]
        grads = F.conv_bn_relu_backward(layout(self.grad.astype(dtype)), cache)
        for label, value in zip(LABELS, grads, strict=True):
            if value is not None:
                results[label] = value
        return results


def assert_close(fast: dict, truth: dict, tolerance: float) -> None:
    assert fast.keys() == truth.keys()
    for name, expected in truth.items():
        assert fast[name].dtype == np.float32, name
        assert fast[name].shape == expected.shape, name
        scale = max(np.abs(expected).max(), 1e-3)
        error = np.abs(fast[name] - expected).max() / scale
        assert error < tolerance, f"{name} is off by {error:.1e} of its largest value"


def far_from_kink(case: Case, **options) -> None:
    """Move beta so that no float32 rounding decides on which side of the ReLU a value falls."""
    with backend.reference_only():
        before = case.run(np.float64, relu=False, **options)["y"]
    for step in range(400):
        shift = step * 1e-3
        if np.abs(before + shift).min() > 1e-4:
            case.single["beta"] = (case.single["beta"] + shift).astype(np.float32)
            return
    raise AssertionError("no shift keeps every value away from the kink")


@pytest.mark.parametrize("shape", CASES, ids=str)
@pytest.mark.parametrize("shortcut", [False, True], ids=["alone", "joined"])
def test_unit_agrees_with_float64_reference(shape, shortcut, loop_kind):
    case = Case(shape, shortcut)
    far_from_kink(case)
    truth = case.run(np.float64)
    assert_close(case.run(np.float32), truth, WINOGRAD_TOLERANCE)
    assert backend.fallback_counts() == {}


@pytest.fixture(params=["all rows", "few rows", "few rows, shared"])
def chunks(request, monkeypatch):
    """Runs a test with images in one chunk, and with as little in each chunk as can be; then the
    threads share the images, or the rows."""
    if request.param != "all rows":
        shared = request.param == "few rows, shared" and not loops.compiled_in_use()
        monkeypatch.setattr(loops, "takes_whole_rows", lambda _: shared)
        monkeypatch.setattr(loops, "NUMPY_PLANE_BYTES", 0)
        monkeypatch.setattr(direct, "_COLUMN_BYTES", 0)
        monkeypatch.setattr(elementwise, "PIECE", 1500)
        monkeypatch.setattr(elementwise, "SHARED_PIECE", 1500)
        monkeypatch.setattr(
            convolution.Winograd, "blocks", lambda self, images, backward=False: groups(images, 1)
        )
        monkeypatch.setattr(whole, "_images_at_once", lambda *_: 2)
        monkeypatch.setattr(convolution, "_SHARED_FILTERS", 0)


@pytest.mark.parametrize("shape", CASES, ids=str)
def test_chunks_of_few_rows_add_up(shape, loop_kind, chunks):
    case = Case(shape, shortcut=True)
    far_from_kink(case)
    assert_close(case.run(np.float32), case.run(np.float64), WINOGRAD_TOLERANCE)


@pytest.mark.parametrize(
    "shape", [(20, 32, 24, 16, 16, 3, 1, 1), (20, 24, 40, 16, 32, 3, 2, 1)], ids=str
)
def test_planes_of_many_images_do_not_run_into_each_other(shape, loop_kind, threads):
    """Planes have some room between them, in which those of the other cases would fit."""
    case = Case(shape, shortcut=False)
    truth = case.run(np.float64, relu=False)
    assert_close(case.run(np.float32, relu=False), truth, WINOGRAD_TOLERANCE)


@pytest.mark.parametrize("shape", CASES[:4], ids=str)
def test_large_filters_are_made_for_some_channels_at_a_time(
    shape, numpy_loops, chunks, monkeypatch
):
    monkeypatch.setattr(strategies, "FILTER_BYTES", 0)
    monkeypatch.setattr(convolution, "_FILTER_CHANNELS", 5)
    case = Case(shape, shortcut=True)
    x, weight = case.single["x"], case.single["weight"]
    assert type(strategies.strategy(x, weight, 1, 1)) is convolution.WinogradByChannels
    far_from_kink(case)
    assert_close(case.run(np.float32), case.run(np.float64), WINOGRAD_TOLERANCE)


def test_stride_two_goes_through_winograd_where_compiled_loops_can_do_it(loop_kind):
    x, weight = np.ones((1, 4, 8, 16), np.float32), np.ones((5, 4, 3, 3), np.float32)
    fast = strategies.strategy(x, weight, 2, 1, unit=True)
    expected = strided.StridedWinograd if loop_kind == "compiled" else direct.Direct
    assert type(fast) is expected
    assert type(strategies.strategy(x, weight, 2, 1)) is direct.Direct
    devices.select_device("cpu", conv="direct")
    assert type(strategies.strategy(x, weight, 2, 1, unit=True)) is direct.Direct


@pytest.mark.parametrize("shape", CASES[:8], ids=str)
def test_direct_option_is_as_exact_as_a_plain_sum(shape, loop_kind):
    devices.select_device("cpu", conv="direct")
    case = Case(shape, shortcut=False)
    far_from_kink(case)
    assert_close(case.run(np.float32), case.run(np.float64), DIRECT_TOLERANCE)


@pytest.mark.parametrize("shape", CASES[::3], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_does_not_matter_where_the_input_and_the_gradient_lie(shape, layout, loop_kind):
    case = Case(shape, shortcut=True)
    far_from_kink(case)
    truth = case.run(np.float64)
    assert_close(case.run(np.float32, layout), truth, WINOGRAD_TOLERANCE)


@pytest.mark.parametrize("shape", [CASES[0], CASES[7]], ids=str)
def test_any_number_of_threads_gives_the_same_result(shape, threads, loop_kind):
    case = Case(shape, shortcut=True)
    far_from_kink(case)
    assert_close(case.run(np.float32), case.run(np.float64), WINOGRAD_TOLERANCE)


@pytest.mark.parametrize("shape", [CASES[0], CASES[7]], ids=str)
def test_same_threads_same_bits(shape, loop_kind):
    case = Case(shape, shortcut=True)
    first, second = case.run(np.float32), case.run(np.float32)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_without_relu(loop_kind):
    case = Case(CASES[0], shortcut=True)
    truth = case.run(np.float64, relu=False)
    assert_close(case.run(np.float32, relu=False), truth, WINOGRAD_TOLERANCE)


@pytest.mark.parametrize("shape", CASES[::2], ids=str)
@pytest.mark.parametrize("shortcut", [False, True], ids=["alone", "joined"])
@pytest.mark.parametrize("relu", [False, True], ids=["no relu", "relu"])
def test_evaluation_uses_running_statistics(shape, shortcut, relu, loop_kind):
    case = Case(shape, shortcut)

    def forward(dtype):
        arguments = case.arguments(dtype)
        before = arguments["running_mean"].copy()
        ordered = (arguments[n] for n in NAMES)
        y, _ = F.conv_bn_relu_forward(*ordered, **case.geometry, relu=relu, training=False)
        np.testing.assert_array_equal(arguments["running_mean"], before)
        return {"y": y}

    assert_close(forward(np.float32), forward(np.float64), WINOGRAD_TOLERANCE)


@pytest.mark.parametrize("shape", [CASES[0], CASES[7], CASES[5]], ids=str)
def test_without_grad_x_the_other_gradients_are_the_same(shape, loop_kind):
    case = Case(shape, shortcut=True)

    def backward(need_grad_x):
        arguments = case.arguments(np.float32)
        ordered = (arguments[n] for n in NAMES)
        _, cache = F.conv_bn_relu_forward(*ordered, **case.geometry)
        gradients = F.conv_bn_relu_backward(case.grad, cache, need_grad_x)
        return dict(zip(LABELS, gradients, strict=True))

    with_it, without = backward(True), backward(False)
    assert without.pop("grad_x") is None
    for name, values in without.items():
        np.testing.assert_array_equal(values, with_it[name], err_msg=name)


def test_inputs_and_incoming_gradient_are_not_written(loop_kind):
    case = Case(CASES[0], shortcut=True)
    arguments = case.arguments(np.float32)
    frozen = ("x", "weight", "gamma", "beta", "shortcut")
    for name in frozen:
        arguments[name].setflags(write=False)
    case.grad.setflags(write=False)
    y, cache = F.conv_bn_relu_forward(*(arguments[n] for n in NAMES), **case.geometry)
    kept = y.copy()
    F.conv_bn_relu_backward(case.grad, cache)
    np.testing.assert_array_equal(y, kept)


def test_mixed_halves_agree(loop_kind):
    """The kernel's backward pass takes the reference's cache, and the other way round."""
    case = Case(CASES[0], shortcut=True)
    far_from_kink(case)
    truth = case.run(np.float64)

    def forward():
        arguments = case.arguments(np.float32)
        return F.conv_bn_relu_forward(*(arguments[n] for n in NAMES), **case.geometry)

    with backend.reference_only():
        _, reference_cache = forward()
    _, kernel_cache = forward()
    ours = F.conv_bn_relu_backward(case.grad, reference_cache)
    with backend.reference_only():
        theirs = F.conv_bn_relu_backward(case.grad, kernel_cache)
    for results in (ours, theirs):
        fast = dict(zip(LABELS, results, strict=True))
        assert_close(fast, {n: truth[n] for n in LABELS}, WINOGRAD_TOLERANCE)


@pytest.mark.parametrize("shape", [CASES[0], CASES[7], CASES[12]], ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_nan_reaches_the_output_and_is_not_taken_for_zero_by_the_relu(shape, training, loop_kind):
    case = Case(shape, shortcut=False)
    x = case.single["x"]
    x[0, 0, 1, 1] = np.nan
    with np.errstate(invalid="ignore"):
        ordered = (case.arguments(np.float32)[n] for n in NAMES)
        y, _ = F.conv_bn_relu_forward(*ordered, **case.geometry, training=training)
    images = np.isnan(y).any(axis=(1, 2, 3))
    assert images[0], "a training that diverged would look as if it had not"
    assert images[1:].all() == training or len(images) == 1, "batch norm mixes images in training"


@pytest.mark.parametrize("mean", [1_000, 30_000])
def test_a_large_mean_does_not_spoil_the_variance(mean, loop_kind):
    """E[x^2] - E[x]^2 in float32 would lose all digits of a variance of 1 around a mean of 1000.

    Around 30,000 the mean itself is rounded by as much as 0.001 in float32.
    """
    rng = np.random.default_rng(7)
    x = (mean + rng.standard_normal((4, 1, 8, 8))).astype(np.float32)
    weight = np.ones((1, 1, 1, 1), np.float32)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    running_mean, running_var = zero.copy(), one.copy()
    F.conv_bn_relu_forward(x, weight, one, zero, running_mean, running_var, momentum=1.0)
    assert running_mean[0] == pytest.approx(x.mean(dtype=np.float64), rel=1e-6)
    assert running_var[0] == pytest.approx(x.var(dtype=np.float64, ddof=1), rel=1e-4)


@pytest.mark.parametrize("relu", [False, True], ids=["no relu", "relu"])
def test_batch_norm_s_passes_are_their_formulas(relu, loop_kind):
    """The ReLU's mask from y * scale + shift, as the loops that store no mask find it."""
    rng = np.random.default_rng(3)
    rows, columns, images, k = 5, 6, 4, 3
    grad, y = (rng.standard_normal((rows, columns, images * k)).astype(np.float32) for _ in "gy")
    mean, scale, shift = (rng.uniform(0.3, 0.9, k).astype(np.float32) for _ in range(3))
    a, b, c = coefficients = rng.standard_normal((3, k)).astype(np.float32)
    mask = (scale, shift) if relu else (loops.NONE, loops.NONE)
    extent, ws = (rows, columns, images * k), Workspace()
    sums, target = np.ones((2, k)), np.empty_like(y)
    places = [Region(array, 0, 0, 0) for array in (grad, y, target)]
    loops.gradient_sums(*places[:2], None, None, *extent, mean, *mask, sums, ws)
    loops.input_gradient(*places, *extent, coefficients, *mask, ws)

    values = y.reshape(-1, k).astype(np.float64)
    g = grad.reshape(-1, k) * (values * scale + shift > 0 if relu else 1)
    expected = 1 + np.stack([g.sum(axis=0), (g * (values - mean)).sum(axis=0)])
    np.testing.assert_allclose(sums, expected, rtol=1e-5, err_msg="sum(g), sum(g (y - mean))")
    expected = a * g + b * values + c
    np.testing.assert_allclose(target.reshape(-1, k), expected, atol=1e-5, err_msg="grad_y")
