"""The types that a training computes in.

Activations and their gradients have the activation type, parameters, statistics and sums are always
float32. A batch comes out of `augment_batch` in the activation type, and every kernel follows the
type of its input, so nothing else needs to know.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minires.errors import DeviceError, UsageError
from minires.kernels.cuda.runtime import capability

AMPERE = 80
"""The compute capability from which on tensor cores know bfloat16 and TF32, and copies run beside
the products (`cp.async`)."""


@dataclass(frozen=True)
class Precision:
    """Name, NumPy name of the activation type, whether float32 products may round to TF32."""

    name: str
    activations: str
    tf32: bool = False
    loss_scaling: bool = False
    oldest: int = 0
    """The compute capability that it needs, 80 for 8.0; 0 where every GPU will do."""

    @property
    def dtype(self) -> np.dtype:
        """The activation type; bfloat16 comes from the package ml_dtypes, as in CuPy."""
        if self.activations != "bfloat16":
            return np.dtype(self.activations)
        try:
            from ml_dtypes import bfloat16
        except ImportError as error:
            raise DeviceError("--precision bf16 needs ml_dtypes: pip install ml_dtypes") from error
        return np.dtype(bfloat16)


PRECISIONS = {
    "fp32": Precision("fp32", "float32"),
    "tf32": Precision("tf32", "float32", tf32=True, oldest=AMPERE),
    "bf16": Precision("bf16", "bfloat16", oldest=AMPERE),
    "fp16": Precision("fp16", "float16", loss_scaling=True),
}

current = PRECISIONS["fp32"]


def set_precision(name: str) -> Precision:
    """Compute in `name` from now on: "fp32", "tf32", "bf16" or "fp16".

    Raises `UsageError` for another name, `DeviceError` where the type is not to be had or this GPU
    is too old for it. The caller of fp16 scales the loss: see `Precision.loss_scaling`.
    """
    global current
    if name not in PRECISIONS:
        raise UsageError(f"--precision {name}: unknown; use {', '.join(PRECISIONS)}")
    precision = PRECISIONS[name]
    if precision.oldest and capability() < precision.oldest:
        needed, here = (f"{value // 10}.{value % 10}" for value in (precision.oldest, capability()))
        raise DeviceError(
            f"--precision {name}: needs compute capability {needed}, and this GPU has {here}; "
            "use --precision fp16 or fp32"
        )
    _ = precision.dtype
    current = precision
    return precision
