"""What all checks of the kernels share: types, tolerances, arrays and comparison.

The expectation of a check is the reference in float64 on the very values that the kernel got, so
what is left is the rounding of the type.
"""

from __future__ import annotations

import numpy as np
import pytest

from minires.backend import to_host

TYPES = {"float32": np.float32, "float16": np.float16}
try:
    from ml_dtypes import bfloat16

    TYPES["bfloat16"] = bfloat16
except ImportError:
    bfloat16 = None
TOLERANCE = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Of the largest value of the expectation."""


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def dtype(request):
    """Each activation type in turn."""
    if request.param not in TYPES:
        pytest.skip("ml_dtypes is not installed: no bfloat16 in NumPy")
    return np.dtype(TYPES[request.param])


def draw(rng, shape, dtype=np.float32, order="nchw"):
    """Random values; `order` is their memory order."""
    values = rng.standard_normal(shape)
    if order == "nhwc":
        values = np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return values.astype(dtype, order="K")


def close(got, expected, tolerance):
    """Compare in float64, relative to the largest expected value; NaN never passes."""
    got, expected = to_host(got).astype(np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    scale = max(abs(expected).max(), 1e-3)
    assert abs(got - expected).max() <= tolerance * scale, abs(got - expected).max() / scale


def wide(*arrays):
    """Copies in float64."""
    return [None if a is None else to_host(a).astype(np.float64) for a in arrays]
