"""Float32 on a device, with its fast kernels, against the float64 reference.

The gradient check proves the reference; this holds everything fast to it, over the same cases and
a few that are large enough for kernels to accept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from minires import nn
from minires.analysis.gradcheck import HWNC, Case, Check, make_problem, upstream
from minires.analysis.gradcheck_cases import all_cases
from minires.analysis.gradcheck_modules import module_case
from minires.analysis.gradcheck_operations import (
    batch_norm,
    conv_bn_relu,
    convolution,
    max_pool,
)
from minires.backend import Array, Device, to_host

TOLERANCES = {"operation": 1e-4, "layer": 1e-4, "block": 1e-4, "network": 1e-3}
"""The largest error allowed, by kind: rounding grows with the number of layers."""

KINK_MARGIN = 1e-4
"""Rounding in float32 moves the input of a ReLU less than this, so no mask flips.

Through 20 layers without shortcuts, Winograd's moves it by more than 1e-5.
"""


def kernel_cases() -> list[Case]:
    """All cases of the gradient check, then larger ones."""
    images = (8, 16, 12, 14)
    large = {
        "conv2d: large, 3x3": ("operation", convolution(images, 24, (3, 3), 1, 1)),
        "conv2d: large, 3x3, H,W,N,C in memory": (
            "operation",
            convolution(images, 24, (3, 3), 1, 1, order=HWNC),
        ),
        "conv2d: large, stride 2": ("operation", convolution(images, 32, (3, 3), 2, 1)),
        "conv2d: large, 1x1, stride 2": ("operation", convolution(images, 32, (1, 1), 2, 0)),
        "batch_norm: large": ("operation", batch_norm(images)),
        "batch_norm: large, H,W,N,C in memory": ("operation", batch_norm(images, order=HWNC)),
        "conv_bn_relu: large": ("operation", conv_bn_relu(images, 16, shortcut=True)),
        "conv_bn_relu: large, running statistics": (
            "operation",
            conv_bn_relu(images, 16, training=False),
        ),
        "max_pool2d: large, 2x2, H,W,N,C in memory": (
            "operation",
            max_pool(images, 2, 2, order=HWNC),
        ),
        "max_pool2d: large, 3x3, stride 2, H,W,N,C in memory": (
            "operation",
            max_pool(images, 3, 2, 1, order=HWNC),
        ),
        "BasicBlock: large, identity": ("block", _block(16, 16, 1)),
        "BasicBlock: large, shortcut A": ("block", _block(16, 32, 2, shortcut="A")),
        "BasicBlock: large, shortcut B": ("block", _block(16, 32, 2, shortcut="B")),
    }
    return all_cases() + [Case(name, kind, make) for name, (kind, make) in large.items()]


def _block(in_channels: int, channels: int, stride: int, **options) -> Callable:
    return module_case(
        lambda init: nn.BasicBlock(in_channels, channels, stride, init=init, **options),
        (4, in_channels, 12, 10),
    )


def compare_case(case: Case, device: Device) -> Check:
    """Run `case` in float32 on `device` and in float64 on the reference, and compare.

    The error of an array is its largest absolute error over its largest absolute value, or over a
    fiftieth of the largest value in all gradients, if that is larger: in single precision, rounding
    is relative to the terms of a sum, not to the sum. (The gradient of a bias in front of a batch
    norm is exactly zero, and its rounding error is not.)
    """
    exact, exact_draw = make_problem(case, margin=KINK_MARGIN)
    fast, fast_draw = make_problem(case, "float32", device, margin=KINK_MARGIN)
    wanted = {"y": exact.run(), **exact.gradients(upstream(exact, exact_draw))}
    found = {"y": fast.run(), **fast.gradients(upstream(fast, fast_draw))}
    floor = max(float(np.abs(a).max()) for a in wanted.values()) / 50
    errors = {name: scaled_error(found[name], wanted[name], floor) for name in wanted}
    where = max(errors, key=errors.__getitem__)
    passed = errors[where] <= TOLERANCES[case.kind]
    return Check(case.name, errors[where], passed, sum(a.size for a in wanted.values()), where)


def scaled_error(found: Array, wanted: np.ndarray, floor: float = 0.0) -> float:
    """max |found - wanted| / max(|wanted|, floor); infinite for a wrong shape or type, or a NaN."""
    found = to_host(found)
    if found.shape != wanted.shape or found.dtype != np.float32:
        return float("inf")
    scale = max(float(np.abs(wanted).max()), floor, 1e-30)
    error = float(np.abs(found - wanted).max()) / scale
    return error if np.isfinite(error) else float("inf")


def compare_kernels(
    cases: Iterable[Case], device: Device, on_check: Callable[[Check], None] | None = None
) -> list[Check]:
    """`compare_case` for each of `cases`; `on_check` is told of each as it ends."""
    checks = []
    for case in cases:
        checks.append(compare_case(case, device))
        if on_check is not None:
            on_check(checks[-1])
    return checks
