"""The pieces of the benchmark: errors, imposed branches, paired ratios, observed operations."""

from __future__ import annotations

import numpy as np
import pytest

from minires import backend, devices
from minires import functional as F
from minires.analysis.bench_check import (
    Branches,
    CheckResult,
    check_model,
    in_float64,
    loss_and_gradients,
    relative_error,
)
from minires.analysis.bench_contenders import Contender, Unavailable, random_batch, torch_twin
from minires.analysis.bench_timing import Timings, time_contenders
from minires.backend import CPU, observe_operations, reference_only
from minires.functional.conv import Conv2dCache
from minires.models import build


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """The number of threads as it was before."""
    monkeypatch.setattr(backend.options, "threads", backend.options.threads)


# --- errors ---------------------------------------------------------------------------------


def test_relative_error_is_a_ratio_of_lengths():
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.0])) == 0
    assert relative_error(np.array([3.0, 5.0]), np.array([3.0, 4.0])) == pytest.approx(1 / 5)
    lists = [np.array([1.0]), np.array([3.0])], [np.array([0.0]), np.array([2.0])]
    assert relative_error(*lists) == pytest.approx(2**0.5 / 2)
    assert relative_error(np.ones(2), np.zeros(2)) == float("inf")
    assert relative_error(np.zeros(2), np.zeros(2)) == 0


def test_not_a_number_never_passes():
    error = relative_error(np.array([np.nan]), np.array([1.0]))
    assert not CheckResult("x", error, 1e-3).passed
    assert CheckResult("x", 5.0, None).passed


def test_caches_are_widened_with_their_arrays():
    x, weight = np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 3, 3), np.float32)
    cache = in_float64(Conv2dCache(x, weight, False, 1, 1))
    assert isinstance(cache, Conv2dCache)
    assert cache.x.dtype == cache.weight.dtype == np.float64 and cache.stride == 1
    labels = np.arange(3)
    assert in_float64(labels) is labels


# --- branches -------------------------------------------------------------------------------


def _gradients(branches: Branches | None = None):
    spec = build("resnet8", dtype="float64").spec
    batch = random_batch(2)
    if branches is None:
        return loss_and_gradients(spec, batch, CPU)[1]
    with observe_operations(branches.impose()):
        return loss_and_gradients(spec, batch, CPU)[1]


def test_own_branches_change_nothing_and_others_do():
    branches = Branches()
    with observe_operations(branches.note):
        free = _gradients()
    assert len(branches._taken) == 7  # the ReLUs of resnet8
    for a, b in zip(free, _gradients(branches), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    branches._taken[3] = ~branches._taken[3]
    assert relative_error(_gradients(branches), free) > 0.1


def test_branches_noted_on_fused_kernels_fit_the_reference():
    fused, plain = Branches(), Branches()
    spec, batch = build("resnet8").spec, random_batch(2)
    with observe_operations(fused.note):
        loss_and_gradients(spec, batch, CPU)
    with reference_only(), observe_operations(plain.note):
        loss_and_gradients(spec, batch, CPU)
    for a, b in zip(fused._taken, plain._taken, strict=True):
        assert (a != b).mean() < 1e-3


def test_winners_of_a_max_pool_are_imposed():
    x = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    branches = Branches()
    with observe_operations(branches.note):
        F.max_pool2d_forward(x, 2, 2)
    with observe_operations(branches.impose()):
        _, cache = F.max_pool2d_forward(-x, 2, 2)
    grad_x = F.max_pool2d_backward(np.ones((1, 1, 1, 1)), cache)
    np.testing.assert_array_equal(grad_x, [[[[0, 0], [0, 1]]]])


# --- observed operations --------------------------------------------------------------------


def test_observer_makes_every_call_and_is_gone_afterwards():
    seen = []

    def around(name, run, args, kwargs):
        seen.append(name)
        return run(*args, **kwargs)

    x, weight = np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3))
    ones, zeros = np.ones(1), np.zeros(1)
    with observe_operations(around):
        F.conv_bn_relu_forward(x, weight, ones, zeros, zeros.copy(), ones.copy(), padding=1)
    assert seen == ["conv_bn_relu_forward", "conv2d_forward", "batch_norm_forward", "relu_forward"]
    F.relu_forward(x)
    assert len(seen) == 4


def test_observer_is_gone_after_an_error():
    def around(name, run, args, kwargs):
        raise RuntimeError(name)

    with pytest.raises(RuntimeError, match="add"), observe_operations(around):
        F.add(np.ones(2), np.ones(2))
    np.testing.assert_array_equal(F.add(np.ones(2), np.ones(2)), [2, 2])


# --- timing ---------------------------------------------------------------------------------


def test_ratios_are_taken_within_each_round():
    timings = Timings({("a", "m"): [1.0, 2.0, 8.0], ("b", "m"): [3.0, 8.0, 8.0]})
    assert timings.paired_ratio("a", "b", "m") == 3.0  # of 3, 4 and 1; the medians' ratio is 4
    assert timings.paired_ratio("b", "a", "m") == 1 / 3
    assert timings.fastest(["a", "b", "c"], "m") == "a"
    assert timings.fastest(["c"], "m") is None


def test_contenders_take_turns_and_every_second_round_runs_backwards():
    log = []

    class Fake(Contender):
        def __init__(self, name):
            self.name = name

        def prepare(self, mode):
            self.mode = mode

        def begin(self):
            log.append(self.name + self.mode)

    contenders = [Fake("a"), Fake("b")]
    timings = time_contenders(contenders, ["1", "2"], 2, lambda line: None)
    assert log[8:] == ["a1", "b1", "a2", "b2", "b2", "a2", "b1", "a1"]
    assert all(len(seconds) == 2 for seconds in timings.seconds.values())


# --- the twin in PyTorch --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, settings",
    [
        ("resnet8", {}),
        ("resnet8", {"width": 0.5, "plain": True}),
        ("resnet8", {"shortcut": "B"}),
        ("resnet18", {"width": 0.125}),
        ("resnet50", {"width": 0.125}),
    ],
)
def test_twin_computes_the_same(name, settings):
    torch = pytest.importorskip("torch")
    model = build(name, **settings)
    images, _ = random_batch(2)
    twin = torch_twin(model).eval()
    with torch.inference_mode():
        theirs = twin(torch.from_numpy(images)).numpy()
    assert relative_error(model.eval()(images), theirs) < 1e-5


@pytest.mark.parametrize(
    "name, settings",
    [("resnet9", {}), ("cnn", {}), ("resnet8", {"dropout": 0.1}), ("resnet8", {"blocks": (1, 1)})],
)
def test_what_has_no_twin_says_so(name, settings):
    pytest.importorskip("torch")
    with pytest.raises(Unavailable, match="no twin"):
        torch_twin(build(name, **settings))


@pytest.mark.parametrize(
    "name, settings",
    [("resnet9", {"width": 0.125}), ("cnn", {}), ("resnet8", {"dropout": 0.2})],
)
def test_checks_pass_for_networks_of_every_kind(name, settings):
    devices.select_device("cpu", 1)
    for check in check_model(build(name, **settings).spec, CPU, full_batch=6):
        assert check.passed, check
