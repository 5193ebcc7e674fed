"""The cases of the gradient check for the operations that give arrays another shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minires import functional as F
from minires.analysis.gradcheck import HWNC, STRIDED, Case, Draw, Problem
from minires.analysis.gradcheck_operations import one_input


def resizing_cases() -> list[Case]:
    """All cases of this file."""
    problems = {
        "upsample: factor 2": _upsample((2, 3, 4, 5), 2),
        "upsample: factor 3, odd image": _upsample((2, 2, 5, 3), 3),
        "upsample: factor 1": _upsample((1, 2, 3, 4), 1),
        "upsample: one pixel, one channel": _upsample((2, 1, 1, 1), 4),
        "upsample: an array with gaps": _upsample((2, 2, 3, 4), 2, STRIDED),
        "upsample: H,W,N,C in memory": _upsample((2, 3, 4, 2), 2, HWNC),
        "flatten: images": _flatten((2, 3, 4, 5)),
        "flatten: one pixel": _flatten((3, 4, 1, 1)),
        "flatten: an array with gaps": _flatten((2, 2, 3, 4), STRIDED),
        "flatten: H,W,N,C in memory": _flatten((2, 3, 4, 2), HWNC),
    }
    return [Case(name, "operation", make) for name, make in problems.items()]


def _upsample(
    shape: tuple[int, ...], factor: int, order: Any = None
) -> Callable[[Draw], Problem]:
    return one_input(
        lambda draw: draw.normal(*shape, order=order),
        lambda x: F.upsample_forward(x, factor),
        lambda g, cache: F.upsample_backward(g, cache),
        order,
    )


def _flatten(shape: tuple[int, ...], order: Any = None) -> Callable[[Draw], Problem]:
    return one_input(
        lambda draw: draw.normal(*shape, order=order),
        lambda x: F.flatten_forward(x),
        lambda g, cache: F.flatten_backward(g, cache),
    )
