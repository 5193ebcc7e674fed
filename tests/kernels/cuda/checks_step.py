"""What stands between the large operations of a step, wherever `place` has it run.

on_cpu.py runs these checks on the CPU, test_on_gpu.py on a GPU.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernels.cuda.checking import TOLERANCE, close, draw, wide

from minires.backend import to_host
from minires.functional import loss as losses
from minires.functional import optimizer
from minires.kernels import cuda


def layouts(rng, shape):
    """An array of this shape in every memory order that a gradient may have."""
    yield draw(rng, shape)
    yield np.asfortranarray(draw(rng, shape))
    if len(shape) == 4:
        yield draw(rng, shape, order="nhwc")
        padded = draw(rng, (shape[0], shape[2], shape[3], shape[1] + 5))
        yield padded[..., : shape[1]].transpose(0, 3, 1, 2)


@pytest.mark.parametrize(
    "shape", [(7,), (10, 3), (1, 64), (16, 3, 3, 3), (5, 8, 1, 1), (1, 1, 2, 1)]
)
def test_gradients_are_set_and_added(shape, place):
    rng = np.random.default_rng(len(shape))
    for laid_out in layouts(rng, shape):
        target = np.array(laid_out, order="K")  # without gaps, as a flat buffer has it
        for values in layouts(rng, shape):
            got, given = place(target.copy(order="K")), place(values)
            assert cuda.step.assign_in_place(got, given) is None
            assert np.array_equal(to_host(got), values)
            assert cuda.step.add_in_place(got, given) is None
            assert np.array_equal(to_host(got), values + values)


def test_many_gradients_are_set_at_once(place):
    rng = np.random.default_rng(2)
    shapes = [(3,), (10, 3), (70, 8, 3, 3), (1, 1, 1, 1), (16, 3, 3, 3)] * 30
    values = [draw(rng, shape, order="nhwc" if len(shape) == 4 else "nchw") for shape in shapes]
    values[4] = list(layouts(rng, shapes[4]))[-1]  # with gaps between its rows
    targets = [place(np.zeros_like(v, order="K")) for v in values]
    assert cuda.step.assign_all_in_place(tuple(targets), tuple(map(place, values))) is None
    for got, expected in zip(targets, values, strict=True):
        assert np.array_equal(to_host(got), expected)


def test_gradients_of_other_types_are_declined():
    wide_ones = np.ones((2, 3))
    assert cuda.step.assign_in_place(wide_ones, wide_ones) is NotImplemented
    narrow = wide_ones.astype(np.float32)
    assert cuda.step.add_in_place(narrow[:, ::2], narrow[:, ::2]) is NotImplemented
    mixed = (narrow, wide_ones), (narrow, wide_ones)
    assert cuda.step.assign_all_in_place(*mixed) is NotImplemented


@pytest.mark.parametrize("shape", [(1, 1), (7, 10), (2000, 33), (512, 64)])
def test_biases_and_sums_of_columns(shape, dtype, place):
    rng = np.random.default_rng(sum(shape))
    x, bias = place(draw(rng, shape, dtype)), place(draw(rng, shape[1:]))
    expected = wide(x, bias)
    close(cuda.step.column_sums(x), expected[0].sum(axis=0), 1e-5)
    cuda.step.add_bias(x, bias)
    close(x, expected[0] + expected[1], TOLERANCE[dtype.name])


@pytest.mark.parametrize("kind", ["labels", "shares"])
@pytest.mark.parametrize("shape", [(1, 2), (70, 10), (40, 100)])
def test_hits_and_losses_are_counted(shape, kind, dtype, place):
    rng = np.random.default_rng(sum(shape))
    logits = np.round(draw(rng, shape) * 2).astype(dtype)  # with equal values: the first counts
    labels = rng.integers(0, shape[1], shape[0])
    if kind == "shares":
        labels = np.round(rng.random(shape), 1).astype(np.float32)
    loss, totals = np.array(1.25, np.float32), np.array([3.0, 5.0])
    got = place(totals.copy())
    cuda.step.count_batch(place(logits), place(labels), place(loss), got)
    losses.count_batch.reference(logits.astype(np.float64), labels, loss, totals)
    assert np.array_equal(to_host(got), totals)


@pytest.mark.parametrize(
    "squares",
    [(4.0,), (1e-9, 0.0), (9.0, 16.0, 0.0, 0.0), tuple(0.1 * n for n in range(12)), (np.inf,),
     (np.nan,)],
)  # fmt: skip
def test_the_factor_of_clipping(squares, place):
    values = np.ones(3, np.float32)
    given = tuple(np.array(s, np.float64) for s in squares)
    norm, factor = cuda.step.clip_factor(values, tuple(map(place, given)), 2.5)
    wanted = optimizer.clip_factor.reference(values, given, 2.5)
    assert np.array_equal(to_host(norm), wanted[0], equal_nan=True)
    assert np.array_equal(to_host(factor), wanted[1], equal_nan=True)


def test_the_numbers_of_a_step_come_as_arguments(place):
    for numbers in ([0.1, 2.0, -3.5], [0.1 * n for n in range(19)]):
        values = place(np.zeros(len(numbers), np.float32))
        counters, kept = place(np.zeros(2, np.int64)), place(np.zeros(300, np.int64))
        indices = np.random.default_rng(0).permutation(300)
        cuda.step.set_numbers(values, numbers, counters, (2**40, 7), kept, place(indices))
        assert np.array_equal(to_host(values), np.array(numbers, np.float32))
        assert to_host(counters).tolist() == [2**40, 7]
        assert np.array_equal(to_host(kept), indices)
