"""Winograd along one axis, on strips, against the float64 reference.

Tolerance: as in test_cpu_fused; one axis of transforms rounds less than two.
"""

from __future__ import annotations

import numpy as np
import pytest

from minires import backend, devices
from minires import functional as F
from minires.kernels.cpu import half_winograd, loops, strips
from minires.kernels.cpu.threads import workspace
from minires.models import build

TOLERANCE = 1e-5

#        N  C   K   H   W  stride
CASES = [
    (3, 16, 16, 8, 8, 1),
    (1, 3, 16, 4, 5, 1),
    (5, 8, 24, 12, 7, 1),
    (2, 32, 8, 16, 1, 1),
    (7, 1, 1, 4, 2, 1),
    (3, 16, 32, 8, 8, 2),
    (2, 5, 7, 16, 6, 2),
    (1, 1, 3, 8, 2, 2),
    (6, 32, 16, 24, 10, 2),
]


@pytest.fixture(autouse=True)
def one_thread(numpy_loops):
    """One thread, no compiled loops, and an error where a number is not one."""
    devices.select_device("cpu", threads=1)
    backend.reset_fallback_counts()
    with np.errstate(invalid="raise", over="raise", divide="raise"):
        yield
    devices.select_device("cpu")


def random(rng, *shape) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def in_strips(shape, seed=0, gap=1) -> np.ndarray:
    """A random activation (N, C, H, W) in strips."""
    return strips.of(random(np.random.default_rng(seed), *shape), gap).logical()


def unit(case, seed=0) -> tuple[dict, np.ndarray]:
    """The arguments of an evaluated unit without a shortcut, and a shortcut that fits."""
    n, c, k, h, w, stride = case
    rng = np.random.default_rng([seed, *case])
    arguments = {
        "x": random(rng, n, c, h, w),
        "weight": random(rng, k, c, 3, 3) / np.float32((9 * c) ** 0.5),
        "gamma": rng.uniform(0.5, 1.5, k).astype(np.float32),
        "beta": random(rng, k),
        "running_mean": random(rng, k),
        "running_var": rng.uniform(0.5, 2.0, k).astype(np.float32),
    }
    return arguments, random(rng, n, k, h // stride, w // stride)


def evaluate(arguments, stride, relu=True, shortcut=None) -> np.ndarray:
    kernel = {"stride": stride, "padding": 1, "relu": relu, "training": False}
    return F.conv_bn_relu_forward(*arguments.values(), shortcut, **kernel)[0]


def truth(arguments, stride, relu=True, shortcut=None) -> np.ndarray:
    wide = {name: value.astype(np.float64) for name, value in arguments.items()}
    extra = None if shortcut is None else shortcut.astype(np.float64)
    with backend.reference_only():
        return evaluate(wide, stride, relu, extra)


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    error = np.abs(found - wanted).max() / max(1, np.abs(wanted).max())
    assert error < TOLERANCE, f"off by {error:.1e} of the largest value"


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "ReLU"])
@pytest.mark.parametrize("added", [False, True], ids=["alone", "joined"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_evaluated_unit_agrees_with_the_reference(case, added, relu, threads):
    devices.select_device("cpu", threads=threads)
    arguments, shortcut = unit(case)
    extra = shortcut if added else None
    found = evaluate(arguments, case[-1], relu, extra)
    assert found.dtype == np.float32
    assert_close(found, truth(arguments, case[-1], relu, extra))
    made = strips.find(found)
    assert made is not None, "the next convolution would copy this"
    assert not made.pixels[:, :, -made.gap :].any(), "the pixels between images are its padding"
    assert not backend.fallback_counts()


@pytest.mark.parametrize("size", [1, 300, 700])
@pytest.mark.parametrize("case", [(7, 4, 8, 8, 6, 1), (7, 4, 8, 8, 6, 2)], ids=str)
def test_a_few_images_at_a_time(case, size, monkeypatch):
    monkeypatch.setattr(half_winograd, "_PIECE", size)
    arguments, shortcut = unit(case)
    assert_close(
        evaluate(arguments, case[-1], shortcut=shortcut),
        truth(arguments, case[-1], shortcut=shortcut),
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_lies_in_scratch_memory_is_never_computed_with(case):
    arguments, _ = unit(case)
    wanted = evaluate(arguments, case[-1])
    scratch = workspace(0)._arrays
    for name in ("strips V", "strips M"):
        scratch[name][...] = np.inf  # the fixture makes an error of inf - inf
    np.testing.assert_array_equal(evaluate(arguments, case[-1]), wanted)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_matrices_are_a_sliding_sum(stride):
    form = half_winograd._FORMS[stride]
    rng = np.random.default_rng(stride)
    rows, taps = rng.standard_normal(form.rows.shape[1]), rng.standard_normal(3)
    products = (form.filters.astype(np.float64) @ taps) * (form.rows.astype(np.float64) @ rows)
    wanted = [rows[stride * i : stride * i + 3] @ taps for i in range(4)]
    found = form.outputs.astype(np.float64) @ [*products, 0.5]
    np.testing.assert_allclose(found, np.add(wanted, 0.5), atol=1e-6, err_msg="0.5: the shift")


def test_which_convolutions_it_takes():
    few, many, too_many = (np.zeros((c, c, 3, 3), np.float32) for c in (32, 64, 65))

    def takes(x, weight, stride=1, padding=1):
        return half_winograd.fits(x, weight, stride, padding)

    x = np.zeros((2, 32, 8, 8), np.float32)
    assert takes(x, few) and takes(x, few, 2)
    assert not takes(x, few, 3) and not takes(x, few, 1, 0) and not takes(x, few, 1, 2)
    assert not takes(x, np.zeros((32, 32, 5, 5), np.float32), 1, 1)
    assert not takes(x.astype(np.float64), few) and not takes(x, few.astype(np.float64))
    assert not takes(x[:0], few)
    assert takes(x[:, :, :4], few) and not takes(x[:, :, :4], few, 2), "four rows of outputs"
    assert not takes(x[:, :, :6], few)
    assert takes(x[:, :, :, :7], few) and not takes(x[:, :, :, :7], few, 2), "pairs of pixels"
    wide = in_strips((2, 64, 8, 8))
    assert takes(wide, many) and not takes(wide.copy(), many), "a copy costs more than it brings"
    assert not takes(x, many[:, :32]) and not takes(wide.copy(), many[:32])
    assert not takes(in_strips((2, 65, 8, 8)), too_many)
    assert not takes(wide, too_many[:, :64]) and not takes(in_strips((2, 65, 8, 8)), too_many[:64])


def test_not_for_compiled_loops_nor_with_direct_convolutions():
    x, weight = np.zeros((2, 16, 8, 8), np.float32), np.zeros((16, 16, 3, 3), np.float32)
    devices.select_device("cpu", conv="direct")
    assert not half_winograd.fits(x, weight, 1, 1)
    devices.select_device("cpu")
    assert half_winograd.fits(x, weight, 1, 1)
    loops.use_compiled(True)
    assert half_winograd.fits(x, weight, 1, 1) != loops.compiled_in_use()


def test_all_of_resnet_20_is_in_strips(monkeypatch):
    calls = []
    original = half_winograd.evaluate

    def counted(x, *rest):
        calls.append(strips.find(x) is not None)
        return original(x, *rest)

    monkeypatch.setattr(half_winograd, "evaluate", counted)
    network = build("resnet20", seed=0)
    network.eval()
    x = random(np.random.default_rng(0), 3, 3, 32, 32)
    found = network.forward(x)
    assert calls == [False] + 18 * [True], "only the images are copied"
    assert not backend.fallback_counts()
    with backend.reference_only():
        wanted = network.forward(x)
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


def test_backward_after_an_evaluation_in_strips():
    arguments, shortcut = unit((2, 4, 4, 8, 4, 1))
    kernel = {"stride": 1, "padding": 1, "training": False}
    ordered = {**arguments, "x": strips.of(arguments["x"]).logical()}
    y, cache = F.conv_bn_relu_forward(*ordered.values(), shortcut, **kernel)
    grads = F.conv_bn_relu_backward(np.ones_like(y), cache)
    with backend.reference_only():
        wide = {name: value.astype(np.float64) for name, value in arguments.items()}
        wanted, cache = F.conv_bn_relu_forward(*wide.values(), shortcut, **kernel)
        truth = F.conv_bn_relu_backward(np.ones_like(wanted), cache)
    for name, found, expected in zip(("x", "weight", "gamma", "beta"), grads, truth, strict=False):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("gap", [1, 2])
def test_strips_are_found_only_by_the_whole_view_of_them(gap):
    x = in_strips((3, 4, 8, 6), gap=gap)
    made = strips.find(x)
    assert made.gap == gap and strips.of(x, gap).pixels.base is made.pixels.base
    assert strips.of(x, 3 - gap).pixels.base is not made.pixels.base, "another gap: a copy"
    np.testing.assert_array_equal(strips.of(x, 3 - gap).logical(), x)
    parts = [x[1:], x[:, 1:], x[:, :, 1:], x[..., 1:], x[:, :, ::-1], x.copy(), x[0]]
    parts += [in_strips((3, 4, 6, 6), gap=gap).mT, made.pixels[:, :, gap:].transpose(1, 3, 0, 2)]
    assert [strips.find(part) for part in parts] == [None] * len(parts)


def test_strips_are_forgotten_with_their_memory():
    before = len(strips._gaps)
    x = in_strips((3, 4, 8, 6))
    assert len(strips._gaps) == before + 1
    del x
    assert len(strips._gaps) == before


@pytest.mark.parametrize("gap", [1, 2])
def test_a_sum_is_in_strips_where_one_of_two_is(gap, threads):
    devices.select_device("cpu", threads=threads)
    x, more = (in_strips((3, 4, 8, 7), *which) for which in ((0, 1), (1, gap)))
    rows = np.ascontiguousarray(more.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1)
    for other in (more, rows, np.ascontiguousarray(more)):
        for first, second in ((x, other), (other, x)):
            found = F.add(first, second)
            np.testing.assert_array_equal(found, x.copy() + more.copy())
            made = strips.find(found)
            assert made.gap == 1 and not made.pixels[:, :, -1:].any()
    assert not backend.fallback_counts()
    assert F.add(x, more.astype(np.float64)).dtype == np.float64


@pytest.mark.parametrize("gap", [1, 2])
def test_what_follows_convolutions_reads_strips(gap, threads):
    devices.select_device("cpu", threads=threads)
    x = in_strips((3, 4, 8, 7), gap=gap)  # odd: windows end outside
    plain = np.ascontiguousarray(x)
    for stride in (1, 2):
        found, _ = F.shortcut_a_forward(x, 8, stride)
        np.testing.assert_array_equal(found, F.shortcut_a_forward.reference(plain, 8, stride)[0])
        made = strips.find(found)
        assert made is not None and not made.pixels[:, :, -made.gap :].any()
    for kernel, stride, padding in ((2, 2, 0), (3, 2, 1)):
        found, _ = F.max_pool2d_forward(x, kernel, stride, padding)
        wanted, _ = F.max_pool2d_forward.reference(plain, kernel, stride, padding)
        np.testing.assert_array_equal(found, wanted, err_msg="maximum")
    found, _ = F.global_avg_pool_forward(x)
    wanted, _ = F.global_avg_pool_forward.reference(plain)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6, err_msg="average")
    assert not backend.fallback_counts()
