from __future__ import annotations

import numpy as np
import pytest

from minires import functional as F
from minires.analysis import gradcheck
from minires.analysis.gradcheck import HWNC, STRIDED, Case, Draw, Problem, check_case
from minires.analysis.gradcheck_cases import all_cases, select_cases
from minires.errors import UsageError

CASES = all_cases()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_derivative(case):
    check = check_case(case)
    wrong = f"the gradient of {check.worst_at} is wrong: {check}"
    assert check.passed and check.max_relative_error < 1e-5, wrong
    assert check.compared > 0


def test_names_tell_the_cases_apart():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert all(": " in name for name in names)


def test_every_operation_and_layer_has_cases():
    names = {case.name.partition(":")[0] for case in CASES}
    operations = {n.removesuffix("_forward") for n in F.__all__ if n.endswith("_forward")}
    assert operations | {"add"} <= names
    from minires import nn

    modules = {
        name
        for name in nn.__all__
        if isinstance(getattr(nn, name), type) and issubclass(getattr(nn, name), nn.Module)
    } - {"Module"}
    assert modules <= names


def cube(factor=3.0, dtype=np.float64):
    """y = x^3, whose derivative is claimed to be `factor` x^2."""

    def make(draw):
        x = draw.uniform(2, 3, low=1.0, high=2.0)
        return Problem({"x": x}, lambda: x**3, lambda g: {"x": g * factor * x**2})

    return Case("cube: test", "operation", make)


def test_a_right_derivative_passes_and_a_wrong_one_fails():
    assert check_case(cube()).passed
    wrong = check_case(cube(3.001))
    assert not wrong.passed
    np.testing.assert_allclose(wrong.max_relative_error, 0.001 / 3.001, rtol=1e-4)
    assert wrong.compared == 6 and wrong.worst_at.startswith("x[")


@pytest.mark.parametrize(
    "gradient", [{}, {"x": None}, {"x": np.zeros(3)}, {"x": np.full((2, 3), np.nan)}]
)
def test_a_gradient_that_is_missing_misshapen_or_not_a_number_fails(gradient):
    def make(draw):
        x = draw.normal(2, 3)
        return Problem({"x": x}, lambda: x * 1.0, lambda g: gradient)

    check = check_case(Case("broken: test", "operation", make))
    assert not check.passed and check.max_relative_error == np.inf


def test_directions_find_a_wrong_factor():
    def make(draw):
        x, w = draw.normal(4, 5), draw.normal(5)
        return Problem(
            {"x": x, "w": w},
            lambda: x * w,
            lambda g: {"x": g * w, "w": 2 * (g * x).sum(axis=0)},
            directions=True,
        )

    check = check_case(Case("directions: test", "network", make))
    assert not check.passed and check.worst_at in ("w", "all at once") and check.compared == 3


def test_the_inputs_are_put_back():
    problem, draw = gradcheck.make_problem(select_cases("resnet8")[0])
    before = {name: array.copy() for name, array in problem.inputs.items()}
    g = gradcheck.upstream(problem, draw)
    list(gradcheck._derivatives(problem, problem.gradients(g), g, draw))
    for name, array in problem.inputs.items():
        np.testing.assert_array_equal(array, before[name])


def test_the_relative_error_has_a_floor():
    error = gradcheck.relative_error
    np.testing.assert_allclose(error([2.0, -1.0], [2.0, 1.0]), [0, 2])
    np.testing.assert_allclose(error([1e-9], [0.0]), [1e-6])  # 1e-9 over the floor of 1e-3
    assert error([1e-8], [0.0]) <= gradcheck.RTOL < error([1.1e-8], [0.0])
    assert error(np.nan, 0.0) == error(1.0, np.inf) == np.inf


def test_no_step_crosses_a_kink():
    def make(draw):
        x = draw.normal(3, 4)
        return Problem({"x": x}, lambda: F.relu_forward(x)[0], lambda g: {"x": g * (x > 0)})

    case = Case("kinks: test", "operation", make)
    for margin in (0.01, 0.1):
        problem, _ = gradcheck.make_problem(case, margin=margin)
        assert abs(problem.inputs["x"]).min() >= margin


def test_substituted_functions_come_back():
    right = F.relu_forward
    with pytest.raises(ZeroDivisionError), gradcheck.substituted(right, len):
        assert F.relu_forward is len and F.fused.relu_forward is len
        raise ZeroDivisionError
    assert F.relu_forward is right and F.fused.relu_forward is right


def test_draws_keep_their_promises():
    draw = Draw(0)
    assert abs(draw.away_from_zero(50, 50)).min() >= 0.0999
    values = np.sort(draw.distinct(5, 7).ravel())
    assert np.diff(values).min() >= 0.125
    for order in (None, HWNC, STRIDED):
        exact = Draw(3).normal(2, 3, 4, 5, order=order)
        rounded = Draw(3, "float32").normal(2, 3, 4, 5, order=order)
        np.testing.assert_array_equal(exact, rounded)
        assert rounded.dtype == np.float32
        np.testing.assert_array_equal(exact, Draw(3).normal(2, 3, 4, 5))
    strided = Draw(0).normal(2, 3, order=STRIDED)
    assert not strided.flags.contiguous
    assert Draw(0).normal(2, 3, 4, 5, order=HWNC).transpose(HWNC).flags.c_contiguous


@pytest.mark.parametrize(
    "pattern, some",
    [
        ("CONV2D: 3x3", "conv2d: 3x3"),
        ("*large logits", "cross_entropy: large logits"),
        ("network", "network: resnet18"),
        ("block", "BasicBlock: plain"),
    ],
)
def test_cases_are_chosen_by_name_or_kind(pattern, some):
    chosen = [case.name for case in select_cases(pattern)]
    assert some in chosen and len(chosen) < len(CASES)


def test_a_pattern_that_fits_nothing_is_refused():
    with pytest.raises(UsageError, match="--only dense: no check fits; there are BasicBlock"):
        select_cases("dense")
