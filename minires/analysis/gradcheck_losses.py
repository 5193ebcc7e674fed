"""The cases of the gradient check for the losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minires import functional as F
from minires.analysis.gradcheck import STRIDED, Case, Draw, Problem
from minires.analysis.gradcheck_operations import problem_of
from minires.backend import Array, array_module


def loss_cases() -> list[Case]:
    """All cases of this file."""
    problems = {
        "cross_entropy: ten classes": _cross_entropy(4, 10),
        "cross_entropy: label smoothing": _cross_entropy(4, 10, 0.1),
        "cross_entropy: one image, two classes": _cross_entropy(1, 2),
        "cross_entropy: large logits": _cross_entropy(3, 5, 0.05, scale=20.0),
        "cross_entropy: logits with gaps": _cross_entropy(3, 4, 0.2, order=STRIDED),
        "soft_cross_entropy: ten classes": _soft_cross_entropy(4, 10),
        "soft_cross_entropy: label smoothing": _soft_cross_entropy(3, 5, 0.1),
        "soft_cross_entropy: one image": _soft_cross_entropy(1, 2),
    }
    return [Case(name, "operation", make) for name, make in problems.items()]


def _cross_entropy(
    n: int, k: int, smoothing: float = 0.0, scale: float = 1.0, order: Any = None
) -> Callable[[Draw], Problem]:
    """The loss of n random logit vectors of k classes against random labels."""

    def make(draw: Draw) -> Problem:
        logits = draw.normal(n, k, scale=scale, order=order)
        labels = array_module(logits).asarray(draw.random.integers(0, k, n))
        return _loss_problem(lambda z: F.cross_entropy_forward(z, labels, smoothing), logits)

    return make


def _soft_cross_entropy(n: int, k: int, smoothing: float = 0.0) -> Callable[[Draw], Problem]:
    """The loss of n random logit vectors against random shares of all k classes."""

    def make(draw: Draw) -> Problem:
        logits = draw.normal(n, k)
        drawn = draw.random.dirichlet(np.ones(k), n)
        shares = array_module(logits).asarray(drawn, dtype=logits.dtype)
        return _loss_problem(lambda z: F.soft_cross_entropy_forward(z, shares, smoothing), logits)

    return make


def _loss_problem(forward: Callable[[Array], tuple[Array, Any]], logits: Array) -> Problem:
    """The problem of a loss; its upstream gradient is 1."""
    problem = problem_of(
        lambda logits: forward(logits),
        lambda _, cache: (F.cross_entropy_backward(cache),),
        logits=logits,
    )
    problem.scalar = True
    return problem
