"""A residual block's two units as one, in evaluation, against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest

from minires import functional as F
from minires.kernels.cpu import blocks, whole

TOLERANCE = 2e-5

#        N  C   K   H   W  stride of the first
CASES = [
    (3, 16, 16, 8, 8, 1),
    (1, 3, 5, 4, 12, 1),
    (5, 8, 24, 8, 16, 2),
    (2, 40, 8, 16, 8, 2),
    (4, 16, 32, 9, 7, 1),
    (3, 16, 32, 12, 4, 2),
]


class Block:
    """Random operands of two units, float32."""

    def __init__(self, n, c, k, h, w, stride, relus=(True, True)) -> None:
        self.rng = np.random.default_rng([n, c, k, h, w, stride])
        self.x = self.array(n, c, h, w)
        self.units = [self.unit(k, c, stride, relus[0]), self.unit(k, k, 1, relus[1])]
        self.shortcut = self.array(n, k, (h - 1) // stride + 1, (w - 1) // stride + 1)

    def array(self, *shape) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(np.float32)

    def unit(self, k, c, stride, relu) -> F.EvaluationUnit:
        weight = self.array(k, c, 3, 3) / np.float32(9 * c) ** 0.5
        positive = [self.rng.uniform(0.5, 1.5, k).astype(np.float32) for _ in range(2)]
        mean, beta = self.array(k), self.array(k)
        return F.EvaluationUnit(
            weight, positive[0], beta, mean, positive[1], stride=stride, padding=1, relu=relu
        )

    def run(self, dtype, joined=True) -> np.ndarray:
        units = [
            F.EvaluationUnit(*(array.astype(dtype) for array in unit[:5]), *unit[5:])
            for unit in self.units
        ]
        shortcut = self.shortcut.astype(dtype) if joined else None
        return F.evaluate_units(self.x.astype(dtype), units, shortcut)


def assert_close(y, expected) -> None:
    assert y.dtype == np.float32 and y.shape == expected.shape
    error = np.abs(y - expected).max() / np.abs(expected).max()
    assert error < TOLERANCE, f"off by {error:.1e} of the largest value"


@pytest.mark.parametrize("shape", CASES, ids=str)
@pytest.mark.parametrize("joined", [False, True], ids=["alone", "joined"])
def test_a_block_agrees_with_its_units_in_float64(shape, joined, loop_kind, threads):
    block = Block(*shape)
    assert_close(block.run(np.float32, joined), block.run(np.float64, joined))


@pytest.mark.parametrize("relus", [(False, True), (True, False)], ids=str)
def test_each_unit_has_its_own_relu(relus, loop_kind):
    block = Block(*CASES[0], relus)
    assert_close(block.run(np.float32), block.run(np.float64))


def test_few_images_at_a_time_and_a_remainder(loop_kind, monkeypatch):
    monkeypatch.setattr(whole, "_images_at_once", lambda *_: 2)
    block = Block(7, 8, 16, 8, 8, 1)
    assert_close(block.run(np.float32), block.run(np.float64))


def test_the_scratch_between_two_images_sizes_keeps_no_old_border(loop_kind):
    large, small = Block(4, 16, 16, 16, 16, 1), Block(4, 16, 16, 8, 8, 1)
    large.run(np.float32)
    assert_close(small.run(np.float32), small.run(np.float64))
    assert_close(large.run(np.float32), large.run(np.float64))


def test_inputs_are_not_written(loop_kind):
    block = Block(*CASES[0])
    arrays = [block.x, block.shortcut, *(a for unit in block.units for a in unit[:5])]
    before = [a.copy() for a in arrays]
    block.run(np.float32)
    for array, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_compiled_loops_take_both_convolutions_at_once(loop_kind, monkeypatch):
    calls = []
    evaluate_two = whole.evaluate_two
    monkeypatch.setattr(
        blocks.whole, "evaluate_two", lambda *a: (calls.append(1), evaluate_two(*a))
    )
    Block(*CASES[0]).run(np.float32)
    assert bool(calls) == (loop_kind == "compiled")


def test_three_units_run_one_after_the_other(loop_kind):
    block = Block(*CASES[0])
    block.units.append(block.unit(16, 16, 1, True))
    assert_close(block.run(np.float32), block.run(np.float64))
