from __future__ import annotations

import importlib

import numpy as np
import pytest

from minires import backend
from minires import functional as F
from minires.analysis.gradcheck import substituted
from minires.analysis.gradcheck_cases import select_cases
from minires.analysis.gradcheck_kernels import compare_case, kernel_cases, scaled_error

CASES = kernel_cases()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_cpu_kernels_agree_with_the_reference(monkeypatch, case, threads):
    monkeypatch.setattr(backend.options, "threads", threads)
    importlib.import_module("minires.kernels.cpu")
    check = compare_case(case, backend.CPU)
    assert check.passed, check


def test_a_kernel_that_is_off_by_a_thousandth_is_found():
    right = F.linear_forward

    def slightly_wrong(x, weight, bias=None):
        y, cache = right(x, weight, bias)
        return (y * np.float32(1.001) if x.dtype == np.float32 else y), cache

    (case,) = select_cases("linear: square")
    assert compare_case(case, backend.CPU).passed
    with substituted(right, slightly_wrong):
        check = compare_case(case, backend.CPU)
    assert not check.passed and check.worst_at == "y"
    assert 5e-4 < check.max_relative_error < 2e-3


def test_the_error_is_relative_to_the_largest_value():
    wanted = np.array([100.0, 0.0])
    assert scaled_error(np.array([100, 1], np.float32), wanted) == pytest.approx(0.01)
    assert scaled_error(np.array([1e-6, 0], np.float32), np.zeros(2), 1.0) == pytest.approx(1e-6)


@pytest.mark.parametrize(
    "found", [np.zeros(2), np.zeros(3, np.float32), np.array([np.nan, 0], np.float32)]
)
def test_a_wrong_type_shape_or_number_is_infinitely_wrong(found):
    assert scaled_error(found, np.zeros(2)) == float("inf")
