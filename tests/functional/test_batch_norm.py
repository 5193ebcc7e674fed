from __future__ import annotations

import statistics

import numpy as np
import pytest

from minires.functional import batch_norm_backward, batch_norm_forward

EPS = 1e-5


def channel_values(x, channel):
    return x[:, channel].ravel().tolist()


def draw(shape, seed=0):
    rng = np.random.default_rng(seed)
    x, grad_output = rng.normal(1.0, 2.0, size=shape), rng.normal(size=shape)
    return x, grad_output, rng.normal(size=shape[1]), rng.normal(size=shape[1])


def buffers(channels, dtype=float):
    return np.zeros(channels, dtype), np.ones(channels, dtype)


@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (1, 3, 2, 3), (4, 1, 1, 1)])
def test_forward_is_the_definition(shape):
    x, _, gamma, beta = draw(shape)
    y, _ = batch_norm_forward(x, gamma, beta, *buffers(shape[1]))
    for c in range(shape[1]):
        values = channel_values(x, c)
        mean, variance = statistics.fmean(values), statistics.pvariance(values)
        expected = [gamma[c] * (v - mean) / (variance + EPS) ** 0.5 + beta[c] for v in values]
        np.testing.assert_allclose(channel_values(y, c), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (1, 3, 2, 3), (4, 1, 1, 1)])
@pytest.mark.parametrize("array", ["grad_x", "grad_weight", "grad_bias"])
def test_backward_is_the_chain_rule_of_the_paper(array, shape):
    # the six equations of Ioffe and Szegedy 2015, section 3, one after the other
    x, g, gamma, beta = draw(shape)
    _, cache = batch_norm_forward(x, gamma, beta, *buffers(shape[1]))
    grad_x, grad_gamma, grad_beta = batch_norm_backward(g, cache)
    for c in range(shape[1]):
        xs, gs = np.array(channel_values(x, c)), np.array(channel_values(g, c))
        m, mean, variance = len(xs), xs.mean(), xs.var()
        x_hat = (xs - mean) / np.sqrt(variance + EPS)
        grad_x_hat = gs * gamma[c]
        grad_variance = (grad_x_hat * (xs - mean) * -0.5 * (variance + EPS) ** -1.5).sum()
        grad_mean = (grad_x_hat * -1 / np.sqrt(variance + EPS)).sum()
        grad_mean += grad_variance * (-2 * (xs - mean)).sum() / m
        expected = grad_x_hat / np.sqrt(variance + EPS)
        expected = expected + grad_variance * 2 * (xs - mean) / m + grad_mean / m
        found, wanted = {
            "grad_x": (channel_values(grad_x, c), expected),
            "grad_weight": (grad_gamma[c], (gs * x_hat).sum()),
            "grad_bias": (grad_beta[c], gs.sum()),
        }[array]
        np.testing.assert_allclose(found, wanted, atol=1e-12, err_msg=f"{array} of channel {c}")


def test_running_statistics_move_towards_the_batch():
    x, _, gamma, beta = draw((3, 2, 2, 2))
    running_mean, running_var = np.array([1.0, -1.0]), np.array([2.0, 0.5])
    before = running_mean.copy(), running_var.copy()
    batch_norm_forward(x, gamma, beta, running_mean, running_var, True, momentum=0.25)
    for c in range(2):
        values = channel_values(x, c)
        mean, unbiased = statistics.fmean(values), statistics.variance(values)
        expected = 0.75 * before[0][c] + 0.25 * mean
        np.testing.assert_allclose(running_mean[c], expected, err_msg="running_mean")
        expected = 0.75 * before[1][c] + 0.25 * unbiased
        np.testing.assert_allclose(running_var[c], expected, err_msg="running_var")


def test_one_value_per_channel_leaves_the_variance_finite():
    x = np.array([[[[3.0]], [[-1.0]]]])
    mean, variance = buffers(2)
    y, cache = batch_norm_forward(x, np.ones(2), np.array([5.0, 6.0]), mean, variance)
    np.testing.assert_array_equal(y.ravel(), [5, 6])
    np.testing.assert_allclose(variance, [0.9, 0.9])
    grad_x, _, _ = batch_norm_backward(np.ones_like(x), cache)
    np.testing.assert_allclose(grad_x, 0, atol=1e-12)


def test_evaluation_uses_the_running_statistics_and_writes_nothing():
    x, g, gamma, beta = draw((2, 3, 2, 4))
    running_mean, running_var = np.array([1.0, 0.0, -2.0]), np.array([0.5, 2.0, 1.0])
    running_mean.flags.writeable = running_var.flags.writeable = False
    y, cache = batch_norm_forward(x, gamma, beta, running_mean, running_var, training=False)
    grad_x, grad_gamma, grad_beta = batch_norm_backward(g, cache)
    for c in range(3):
        deviation = (running_var[c] + EPS) ** 0.5
        x_hat = (x[:, c] - running_mean[c]) / deviation
        for name, found, expected in [
            ("y", y[:, c], gamma[c] * x_hat + beta[c]),
            ("grad_x", grad_x[:, c], g[:, c] * gamma[c] / deviation),
            ("grad_weight", grad_gamma[c], (g[:, c] * x_hat).sum()),
            ("grad_bias", grad_beta[c], g[:, c].sum()),
        ]:
            np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=name)


def test_the_cache_outlives_the_running_buffers():
    x, g, gamma, beta = draw((2, 2, 2, 2))
    mean, variance = buffers(2)
    _, cache = batch_norm_forward(x, gamma, beta, mean, variance, training=False)
    wanted = batch_norm_backward(g, cache)
    mean += 100
    variance += 100
    for found, expected in zip(batch_norm_backward(g, cache), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_variance_survives_a_large_mean_in_float32():
    # E[x^2] - E[x]^2 in float32 would be 0 or negative here
    rng = np.random.default_rng(0)
    x = (4096 + rng.normal(size=(4, 1, 8, 8))).astype(np.float32)
    ones, zeros = np.ones(1, np.float32), np.zeros(1, np.float32)
    y, _ = batch_norm_forward(x, ones, zeros, zeros.copy(), ones.copy())
    expected = (x.astype(np.float64) - x.mean(dtype=np.float64)) / x.std(dtype=np.float64)
    np.testing.assert_allclose(y, expected, atol=2e-3)


def test_half_precision_keeps_its_statistics_in_float32():
    # the sum of 65,536 values near 8 does not fit into float16
    x = np.full((64, 1, 32, 32), 8.0, np.float16)
    x[::2] = 9.0
    ones, zeros = np.ones(1, np.float16), np.zeros(1, np.float16)
    y, cache = batch_norm_forward(x, ones, zeros, zeros.copy(), ones.copy())
    assert y.dtype == np.float16
    np.testing.assert_allclose(cache.mean, 8.5)
    np.testing.assert_allclose(np.unique(y.astype(np.float32)), [-1, 1], atol=1e-2)
    grad_x, grad_gamma, grad_beta = batch_norm_backward(np.full_like(x, 2.0), cache)
    assert grad_x.dtype == np.float16
    np.testing.assert_allclose(grad_beta, 2 * 65536)
    np.testing.assert_allclose(grad_x.astype(np.float32), 0, atol=1e-3)
