"""Batch norm on its own on the CPU, against the reference in float64."""

from __future__ import annotations

import numpy as np
import pytest

from minires import backend
from minires import functional as F

TOLERANCE = {"rtol": 1e-5, "atol": 2e-6}  # float32 rounds to 6e-8; a few hundred values are summed

SHAPES = [(2, 3, 4, 6), (1, 1, 5, 3), (3, 16, 8, 8), (5, 2, 1, 1), (4, 8, 7, 6)]


def draw(shape, seed=0):
    rng = np.random.default_rng(seed)
    x, grad = rng.normal(3.0, 2.0, shape), rng.normal(size=shape)
    return x, grad, rng.normal(size=shape[1]), rng.normal(size=shape[1])


def run(arrays, dtype, training, hwnc):
    """All that batch norm gives, by name, and the running statistics."""
    x, grad, gamma, beta = (a.astype(dtype) for a in arrays)
    if hwnc:
        x, grad = (np.ascontiguousarray(a.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1)
                   for a in (x, grad))  # fmt: skip
    channels = x.shape[1]
    mean = np.linspace(-1.0, 1.0, channels).astype(dtype)
    variance = np.linspace(0.5, 2.0, channels).astype(dtype)
    x_before, grad_before = x.copy(), grad.copy()
    y, cache = F.batch_norm_forward(x, gamma, beta, mean, variance, training, 0.3)
    found = dict(zip(("grad_x", "grad_weight", "grad_bias"), F.batch_norm_backward(grad, cache),
                     strict=True))  # fmt: skip
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(grad, grad_before)
    return {"y": y, **found, "running_mean": mean, "running_var": variance}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("hwnc", [True, False], ids=["hwnc", "nchw"])
def test_agrees_with_the_reference_in_float64(shape, training, hwnc, loop_kind, threads):
    arrays = draw(shape)
    backend.reset_fallback_counts()
    found = run(arrays, np.float32, training, hwnc)
    assert backend.fallback_counts() == {}
    for name, wanted in run(arrays, np.float64, training, hwnc).items():
        assert found[name].dtype == np.float32, name
        np.testing.assert_allclose(found[name], wanted, **TOLERANCE, err_msg=name)


def test_a_large_mean_costs_no_precision(loop_kind, threads):
    x = np.random.default_rng(0).normal(1000.0, 0.5, (8, 4, 6, 6))
    ones, zeros = np.ones(4), np.zeros(4)
    found, _ = F.batch_norm_forward(*(a.astype(np.float32) for a in (x, ones, zeros, zeros, ones)))
    rounded = x.astype(np.float32).astype(np.float64)  # as far as float32 can tell them
    wanted, _ = F.batch_norm_forward(rounded, ones, zeros, zeros.copy(), ones.copy())
    np.testing.assert_allclose(found, wanted, atol=3e-4)  # 1000 is rounded to 6e-5, by std 0.5
