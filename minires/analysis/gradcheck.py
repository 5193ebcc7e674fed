r"""The gradient check: hand-written derivatives against central differences, in float64.

For an operation $y = f(a, b, \dots)$ and a random upstream gradient $g$, the scalar
$L = \sum g\,y$ has the derivatives that the backward pass claims to return. Each is compared with

$$ \frac{\partial L}{\partial a_i} \approx
   \sum g\,\frac{f(a + h e_i) - f(a - h e_i)}{2h}, \qquad h = 10^{-5} $$

An upstream gradient of ones would not do: the gradient of batch norm is then zero, and a wrong
backward pass that returns zero passes. The difference is taken before the sum, so that the large
part of y that does not change cancels exactly instead of leaving its rounding error behind.

Source: Bishop 1995, "Neural networks for pattern recognition", section 4.8.1 (central differences).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minires import functional as F
from minires.backend import CPU, Array, Device, to_device

STEP = 1e-5
RTOL = 1e-5
ATOL = 1e-8
KINK_MARGIN = 20 * STEP
"""How far from 0 the input of every ReLU inside a problem must be: no step may cross a kink."""

HWNC = (2, 3, 0, 1)
NHWC = (0, 2, 3, 1)
HWIO = (2, 3, 1, 0)
STRIDED = "strided"
"""Memory orders besides plain C: axes from the slowest to the fastest, or an array with gaps."""


class Draw:
    """Draws the arrays of one problem from a seed.

    Values are rounded to float32 and then stored as `dtype` on `device`, so that a problem has the
    same numbers in both precisions.
    """

    def __init__(self, seed: int, dtype: str = "float64", device: Device = CPU) -> None:
        self.random = np.random.default_rng(seed)
        self.dtype, self.device = np.dtype(dtype), device

    def normal(self, *shape: int, scale: float = 1.0, order: Any = None) -> Array:
        """Normal values with standard deviation `scale`."""
        return self.place(self.random.standard_normal(shape) * scale, order)

    def uniform(self, *shape: int, low: float, high: float, order: Any = None) -> Array:
        """Uniform values from `low` to `high`."""
        return self.place(self.random.uniform(low, high, shape), order)

    def away_from_zero(self, *shape: int, order: Any = None) -> Array:
        """Values of both signs, at least 0.1 away from 0: the kink of ReLU."""
        values = self.random.uniform(0.1, 1.5, shape)
        return self.place(values * self.random.choice([-1.0, 1.0], shape), order)

    def distinct(self, *shape: int, order: Any = None) -> Array:
        """Values that are at least 0.125 apart: no two windows of a max pool come near a tie."""
        size = int(np.prod(shape))
        values = self.random.permutation(size).reshape(shape) - size / 2
        return self.place(values * 0.125, order)

    def place(self, values: np.ndarray, order: Any = None) -> Array:
        """`values` rounded to float32, as `dtype`, in memory order `order`, on the device."""
        array = arrange(values.astype(np.float32).astype(self.dtype), order)
        return to_device(array, self.device)


def arrange(values: np.ndarray, order: Any = None) -> np.ndarray:
    """A copy of `values` whose memory order is `order`: None (C), axes, or `STRIDED`."""
    if order is None:
        return np.array(values, order="C")
    if order == STRIDED:
        roomy = np.zeros((*values.shape[:-1], 2 * values.shape[-1]), values.dtype)
        view = roomy[..., ::-2]
        view[...] = values
        return view
    return np.ascontiguousarray(values.transpose(order)).transpose(np.argsort(order))


@dataclass
class Problem:
    """Something to differentiate.

    `inputs` are the arrays to differentiate by, changed in place by the check; `run` computes the
    output from them; `gradients(grad_output)` runs forward and backward and returns one gradient
    for each name in `inputs`. The upstream gradient is drawn in memory order `grad_order`, or is 1
    where `scalar` says that the output is the loss itself. With `directions`, whole arrays are
    moved along random directions instead of one element at a time.
    """

    inputs: dict[str, Array]
    run: Callable[[], Array]
    gradients: Callable[[Array], dict[str, Array]]
    grad_order: Any = None
    scalar: bool = False
    directions: bool = False


@dataclass(frozen=True)
class Case:
    """A named problem, drawn anew by `make` each time it is needed.

    `kind` is "operation", "layer", "block" or "network".
    """

    name: str
    kind: str
    make: Callable[[Draw], Problem] = field(repr=False)


@dataclass(frozen=True)
class Check:
    """The outcome of one case: the worst of `compared` derivatives, and where it was."""

    name: str
    max_relative_error: float
    passed: bool
    compared: int = 0
    worst_at: str = ""


def relative_error(analytic: Any, numeric: Any) -> np.ndarray:
    """|analytic - numeric| / max(|analytic|, |numeric|, ATOL / RTOL), element by element.

    Below a size of ATOL / RTOL = 0.001 the differences carry too little for a relative error to
    mean anything; with this floor, an error of RTOL there is an absolute error of ATOL. So
    `relative_error <= RTOL` is the usual test with both tolerances, as one number. What is not
    finite counts as infinitely wrong.
    """
    analytic, numeric = np.asarray(analytic, np.float64), np.asarray(numeric, np.float64)
    scale = np.maximum(np.maximum(np.abs(analytic), np.abs(numeric)), ATOL / RTOL)
    with np.errstate(invalid="ignore"):
        error = np.abs(analytic - numeric) / scale
    return np.where(np.isfinite(error), error, np.inf)


def check_case(case: Case) -> Check:
    """Compare every derivative of `case` with central differences, in float64."""
    problem, draw = make_problem(case)
    grad_output = upstream(problem, draw)
    gradients = problem.gradients(grad_output.copy())
    worst, where, compared = 0.0, "", 0
    for place, analytic, numeric in _derivatives(problem, gradients, grad_output, draw):
        error = relative_error(analytic, numeric)
        compared += error.size
        if error.size and error.max() > worst:
            worst = float(error.max())
            index = np.unravel_index(error.argmax(), error.shape)
            where = place + (str([int(i) for i in index]) if index else "")
    return Check(case.name, worst, worst <= RTOL, compared, where)


def run_checks(
    cases: Iterable[Case], on_check: Callable[[Check], None] | None = None
) -> list[Check]:
    """`check_case` for each of `cases`; `on_check` is told of each as it ends."""
    checks = []
    for case in cases:
        checks.append(check_case(case))
        if on_check is not None:
            on_check(checks[-1])
    return checks


def make_problem(
    case: Case, dtype: str = "float64", device: Device = CPU, margin: float = KINK_MARGIN
) -> tuple[Problem, Draw]:
    """Draw the problem of `case`, far enough from every kink of a ReLU inside it.

    The seed depends on the case's name alone. A network has thousands of ReLUs, so points are drawn
    until no input of one is nearer to 0 than `margin`; this is decided in float64, so that
    other precisions get the same point.
    """
    seed = zlib.crc32(case.name.encode())
    for attempt in range(1000):
        draw = Draw(seed + attempt)
        problem = case.make(draw)
        if away_from_kinks(problem, margin):
            break
    else:
        raise AssertionError(f"{case.name}: every point drawn lies on the kink of a ReLU")
    if draw.dtype == np.dtype(dtype) and device == CPU:
        return problem, draw
    draw = Draw(seed + attempt, dtype, device)
    return case.make(draw), draw


def upstream(problem: Problem, draw: Draw) -> Array:
    """A random upstream gradient for `problem`; 1 where its output is the loss."""
    shape = problem.run().shape
    if problem.scalar:
        return draw.place(np.ones(shape))
    return draw.normal(*shape, order=problem.grad_order)


def away_from_kinks(problem: Problem, margin: float = KINK_MARGIN) -> bool:
    """Whether no value that enters a ReLU when `problem` runs is nearer to 0 than `margin`."""
    right = F.relu_forward

    def watched(x: Array):
        if float(abs(x).min()) < margin:
            raise _OnKink
        return right(x)

    with substituted(right, watched):
        try:
            problem.run()
        except _OnKink:
            return False
    return True


class _OnKink(Exception):
    """Ends a run of a problem early."""


@contextmanager
def substituted(original: Callable, replacement: Callable) -> Iterator[None]:
    """Put `replacement` wherever a module of minires holds the function `original`."""
    places = [
        (module, name)
        for module_name, module in list(sys.modules.items())
        if module_name.partition(".")[0] == "minires" and module is not None
        for name, value in list(vars(module).items())
        if value is original
    ]
    for module, name in places:
        setattr(module, name, replacement)
    try:
        yield
    finally:
        for module, name in places:
            setattr(module, name, original)


def _derivatives(
    problem: Problem, gradients: dict[str, Array], grad_output: Array, draw: Draw
) -> Iterator[tuple[str, Any, Any]]:
    """(what, analytic, numeric) for each input, or for each direction."""
    for name, array in problem.inputs.items():
        gradient = gradients.get(name)
        if gradient is None or gradient.shape != array.shape:
            yield f"{name} (no gradient of its shape)", np.inf, 0.0
        elif problem.directions:
            direction = _unit_direction(draw, {name: array})
            yield name, *_along(problem, gradients, grad_output, direction)
        else:
            yield name, gradient, _every_element(problem, array, grad_output)
    if problem.directions:
        direction = _unit_direction(draw, problem.inputs)
        yield "all at once", *_along(problem, gradients, grad_output, direction)


def _unit_direction(draw: Draw, arrays: dict[str, Array]) -> dict[str, np.ndarray]:
    """A random direction of length 1 over all of `arrays`: a step along it moves no ReLU far."""
    direction = {name: draw.random.standard_normal(a.shape) for name, a in arrays.items()}
    length = sum(float((d * d).sum()) for d in direction.values()) ** 0.5
    return {name: d / length for name, d in direction.items()}


def _every_element(problem: Problem, array: np.ndarray, grad_output: np.ndarray) -> np.ndarray:
    """The derivative by each element of `array`, one after the other."""
    numeric = np.empty(array.shape)
    for index in np.ndindex(array.shape):
        before = array[index]
        array[index] = before + STEP
        above = problem.run().copy()  # it may be a view of the input
        array[index] = before - STEP
        below = problem.run().copy()
        array[index] = before
        numeric[index] = (grad_output * (above - below)).sum() / (2 * STEP)
    return numeric


def _along(
    problem: Problem,
    gradients: dict[str, np.ndarray],
    grad_output: np.ndarray,
    direction: dict[str, np.ndarray],
) -> tuple[float, float]:
    """The derivative along `direction` (input name: array), analytic and numeric."""
    analytic = sum(float((gradients[name] * d).sum()) for name, d in direction.items())
    before = {name: problem.inputs[name].copy() for name in direction}
    outputs = []
    for step in (STEP, -STEP):
        for name, d in direction.items():
            problem.inputs[name][...] = before[name] + step * d
        outputs.append(problem.run().copy())
    for name, values in before.items():
        problem.inputs[name][...] = values
    above, below = outputs
    return analytic, float((grad_output * (above - below)).sum() / (2 * STEP))
