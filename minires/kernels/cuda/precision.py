"""The types that a training computes in.

Activations and their gradients have the activation type, parameters, statistics and sums are always
float32. A batch comes out of `augment_batch` in the activation type, and every kernel follows the
type of its input, so nothing else needs to know.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minires.errors import DeviceError, UsageError


@dataclass(frozen=True)
class Precision:
    """Name, NumPy name of the activation type, whether float32 products may round to TF32."""

    name: str
    activations: str
    tf32: bool = False
    loss_scaling: bool = False

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
    "tf32": Precision("tf32", "float32", tf32=True),
    "bf16": Precision("bf16", "bfloat16"),
    "fp16": Precision("fp16", "float16", loss_scaling=True),
}

current = PRECISIONS["fp32"]


def set_precision(name: str) -> Precision:
    """Compute in `name` from now on: "fp32", "tf32", "bf16" or "fp16".

    Raises `UsageError` for another name, `DeviceError` where the type is not to be had. The caller
    of fp16 scales the loss: see `Precision.loss_scaling`.
    """
    global current
    if name not in PRECISIONS:
        raise UsageError(f"--precision {name}: unknown; use {', '.join(PRECISIONS)}")
    precision = PRECISIONS[name]
    _ = precision.dtype
    current = precision
    return precision
