"""What every operation promises: the input's dtype, inputs left alone, any memory order."""

from __future__ import annotations

import numpy as np
import pytest

from minires import functional as F


class Arrays:
    """Draws arrays of one dtype, all of them protected against writing."""

    def __init__(self, dtype, arrange=np.asarray):
        self.rng, self.dtype, self.arrange = np.random.default_rng(0), dtype, arrange

    def __call__(self, *shape):
        array = self.arrange(self.rng.normal(size=shape).astype(self.dtype))
        array.flags.writeable = False
        return array

    def running(self, channels):
        return np.zeros(channels, self.dtype), np.ones(channels, self.dtype)


PAIRS = {
    "conv2d": lambda a: (
        lambda: F.conv2d_forward(a(2, 3, 5, 4), a(2, 3, 3, 3), a(2), 2, 1),
        F.conv2d_backward,
    ),
    "batch_norm": lambda a: (
        lambda: F.batch_norm_forward(a(2, 3, 5, 4), a(3), a(3), *a.running(3)),
        F.batch_norm_backward,
    ),
    "batch_norm, evaluation": lambda a: (
        lambda: F.batch_norm_forward(a(2, 3, 5, 4), a(3), a(3), *a.running(3), training=False),
        F.batch_norm_backward,
    ),
    "relu": lambda a: (lambda: F.relu_forward(a(2, 3, 5, 4)), F.relu_backward),
    "max_pool2d": lambda a: (
        lambda: F.max_pool2d_forward(a(2, 3, 5, 4), 3, 2, 1),
        F.max_pool2d_backward,
    ),
    "global_avg_pool": lambda a: (
        lambda: F.global_avg_pool_forward(a(2, 3, 5, 4)),
        F.global_avg_pool_backward,
    ),
    "upsample": lambda a: (lambda: F.upsample_forward(a(2, 3, 5, 4), 2), F.upsample_backward),
    "flatten": lambda a: (lambda: F.flatten_forward(a(2, 3, 5, 4)), F.flatten_backward),
    "linear": lambda a: (
        lambda: F.linear_forward(a(2, 3), a(4, 3), a(4)),
        F.linear_backward,
    ),
    "dropout": lambda a: (
        lambda: F.dropout_forward(a(2, 3, 5, 4), 0.5, seed=0),
        F.dropout_backward,
    ),
    "shortcut_a": lambda a: (
        lambda: F.shortcut_a_forward(a(2, 3, 5, 4), 6, 2),
        F.shortcut_a_backward,
    ),
    "conv_bn_relu": lambda a: (
        lambda: F.conv_bn_relu_forward(
            *(a(2, 3, 5, 4), a(3, 3, 3, 3), a(3), a(3), *a.running(3), a(2, 3, 5, 4)), padding=1
        ),
        F.conv_bn_relu_backward,
    ),
    "cross_entropy": lambda a: (
        lambda: F.cross_entropy_forward(a(2, 4), np.array([1, 3]), 0.1),
        lambda _, cache: F.cross_entropy_backward(cache),
    ),
}


def run(name, dtype, arrange=np.asarray):
    """The output and the tuple of gradients, from write-protected arrays."""
    arrays = Arrays(dtype, arrange)
    forward, backward = PAIRS[name](arrays)
    y, cache = forward()
    gradients = backward(arrays(*y.shape), cache)
    return y, gradients if isinstance(gradients, tuple) else (gradients,)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(name, dtype):
    y, gradients = run(name, dtype)
    assert [array.dtype for array in (y, *gradients)] == [dtype] * (1 + len(gradients))


@pytest.mark.parametrize("name", PAIRS)
def test_half_precision_is_kept_for_activations(name):
    y, gradients = run(name, np.float16)
    wanted = np.float32 if name == "cross_entropy" else np.float16
    assert y.dtype == wanted
    assert gradients[0].dtype == np.float16
    assert {array.dtype.name for array in gradients[1:]} <= {"float16", "float32"}
    assert all(np.isfinite(array.astype(np.float64)).all() for array in (y, *gradients))


@pytest.mark.parametrize("name", PAIRS)
def test_half_precision_is_near_double(name):
    for low, exact in zip(_flat(run(name, np.float16)), _flat(run(name, np.float64)), strict=True):
        scale = np.abs(exact).max()
        np.testing.assert_allclose(low / scale, exact / scale, atol=0.02)


def with_gaps(array):
    return np.repeat(array, 2, axis=-1)[..., ::2]


@pytest.mark.parametrize("arrange", [np.asfortranarray, with_gaps])
@pytest.mark.parametrize("name", PAIRS)
def test_memory_order_does_not_matter(name, arrange):
    for found, wanted in zip(
        _flat(run(name, np.float64, arrange)), _flat(run(name, np.float64)), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_sums_over_half_precision_are_kept_in_float32():
    zeros = np.zeros((4096, 3), np.float16)
    ones = np.ones((4096, 2), np.float16)
    _, cache = F.linear_forward(zeros, zeros[:2], zeros[0, :2])
    np.testing.assert_array_equal(F.linear_backward(ones, cache)[2], [4096, 4096])
    images = np.zeros((64, 1, 32, 32), np.float16)
    _, cache = F.conv2d_forward(images, images[:1, :, :1, :1], images[0, 0, 0, :1])
    assert F.conv2d_backward(images + np.float16(1), cache)[2] == 65536


def test_every_pair_is_covered():
    pairs = {f"{name}_{way}" for name in PAIRS for way in ("forward", "backward")}
    pairs.add("soft_cross_entropy_forward")  # its backward is that of cross_entropy
    assert {name for name in F.__all__ if name.endswith(("_forward", "_backward"))} <= pairs


def _flat(result):
    y, gradients = result
    return [np.asarray(array, np.float64) for array in (y, *gradients)]
