"""Dropout in memory order (H, W, N, C): the mask is the reference's, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from minires import backend, devices
from minires import functional as F
from minires.devices import can_fork
from minires.kernels.cpu.buffers import as_hwnc
from minires.processes import ProcessGroup, sharing


@pytest.fixture(autouse=True, params=[1, 3])
def threads(request):
    devices.select_device("cpu", threads=request.param)
    yield
    devices.select_device("cpu")


def in_hwnc(shape, seed=0):
    """Random (N, C, H, W) float32 in memory order (H, W, N, C)."""
    n, c, h, w = shape
    values = np.random.default_rng(seed).standard_normal((h, w, n, c)).astype(np.float32)
    return values.transpose(2, 3, 0, 1)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (7, 4, 3, 2), (2, 8, 16, 16)])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.3, 0.5, 0.95])
@pytest.mark.parametrize("seed, layer, step", [(0, 0, 0), (2**63 - 1, 3, 10**6), (-5, 1, 2)])
def test_equals_the_reference_bit_for_bit(shape, p, seed, layer, step):
    x, grad = in_hwnc(shape), in_hwnc(shape, 1)
    backend.reset_fallback_counts()
    y, cache = F.dropout_forward(x, p, seed, layer, step)
    wanted, wanted_cache = F.dropout_forward.reference(x, p, seed, layer, step)
    np.testing.assert_array_equal(y, wanted, err_msg="y")
    np.testing.assert_array_equal(cache.factor, wanted_cache.factor, err_msg="factor")
    found = F.dropout_backward(grad, cache)
    wanted = F.dropout_backward.reference(grad, wanted_cache)
    np.testing.assert_array_equal(found, wanted, err_msg="grad_x")
    assert not backend.fallback_counts()
    for array in (y, found):
        assert array.dtype == np.float32 and as_hwnc(array) is not None, "would be copied"


@pytest.mark.skipif(not can_fork(), reason="a process that computes cannot be forked")
@pytest.mark.parametrize("order", ["vectors", "hwnc", "nchw"])
def test_a_share_of_a_batch_gets_its_part_of_the_mask(order):
    x = in_hwnc((5, 3, 4, 2))
    x = {"hwnc": x, "nchw": np.ascontiguousarray(x), "vectors": x.reshape(5, -1)}[order]
    wanted, _ = F.dropout_forward.reference(x, 0.5, 1)
    group = ProcessGroup(2)
    group.rank = 1
    with sharing(group, 5) as share:
        y, _ = F.dropout_forward(x[share], 0.5, 1)
    np.testing.assert_array_equal(y, wanted[share])


def test_halves_mix_with_the_reference():
    x, grad = in_hwnc((2, 3, 4, 5)), in_hwnc((2, 3, 4, 5), 1)
    _, fast = F.dropout_forward(x, 0.4, 1)
    _, plain = F.dropout_forward.reference(np.ascontiguousarray(x), 0.4, 1)
    np.testing.assert_array_equal(F.dropout_backward(grad, plain), grad * plain.factor)
    np.testing.assert_array_equal(F.dropout_backward.reference(grad, fast), grad * plain.factor)


def test_vectors_and_other_memory_orders():
    x = np.random.default_rng(0).standard_normal((4, 9)).astype(np.float32)
    y, cache = F.dropout_forward(x, 0.5, 1)
    np.testing.assert_array_equal(y, F.dropout_forward.reference(x, 0.5, 1)[0])
    np.testing.assert_array_equal(F.dropout_backward(x, cache), y)
    images = np.ascontiguousarray(in_hwnc((2, 3, 4, 5)))
    y, cache = F.dropout_forward(images, 0.5, 1)
    np.testing.assert_array_equal(y, F.dropout_forward.reference(images, 0.5, 1)[0])
    np.testing.assert_array_equal(F.dropout_backward(images, cache), y)
