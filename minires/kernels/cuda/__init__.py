"""Kernels for CuPy arrays. Importing this package registers them; it does not import CuPy.

What they share: activations in memory order (N, H, W, C), of which the logical shape stays
(N, C, H, W), in float32, float16 or bfloat16; parameters, statistics and sums in float32. The
kernels themselves are the .cu files under src/, compiled at first use and kept on disk. None of
them has been timed on a GPU yet.
"""

from minires.kernels.cuda import (
    batch_norm,
    conv2d,
    distortion,
    fused,
    head,
    optimizer,
    scaling,
    shapes,
    simple,
    step,
    weights,
)
from minires.kernels.cuda.precision import set_precision

__all__ = [
    "batch_norm",
    "conv2d",
    "distortion",
    "fused",
    "head",
    "optimizer",
    "scaling",
    "set_precision",
    "shapes",
    "simple",
    "step",
    "weights",
]
