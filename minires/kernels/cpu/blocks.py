"""A residual block in evaluation: a few images go through both of its convolutions at once.

Unit by unit, a batch's activations are written to memory and read again twice in a block: between
the convolutions, and by the shortcut. Here each thread has scratch for the few images that it works
on, so what lies between the convolutions never leaves the cache, and the block's input is still
there when the shortcut adds it. The threads meet once a block instead of twice.

Here are the choice and the memory, `whole.evaluate_two` gives a thread its scratch, and
`compiled_units.evaluate_two` is the loop over images. Blocks of other convolutions
(bottlenecks, and images whose sides are no multiples of 4) go through the reference: unit by unit,
each with its own kernel.
"""

from __future__ import annotations

import numpy as np

from minires import functional
from minires.backend import Array, kernel
from minires.functional.fused import EvaluationUnit
from minires.kernels.cpu import loops, whole
from minires.kernels.cpu.buffers import logical, pool, to_hwnc
from minires.kernels.cpu.convolution import Winograd, use_again
from minires.kernels.cpu.folding import Folded, folded
from minires.kernels.cpu.regions import region
from minires.kernels.cpu.strategies import strategy
from minires.kernels.cpu.threads import parallel, workspace


@kernel("evaluate_units", "cpu")
def evaluate_units(x: Array, units: list[EvaluationUnit], shortcut: Array | None = None) -> Array:
    """`functional.fused.evaluate_units`."""
    pair = _convolutions(x, units)
    if pair is None:
        return functional.evaluate_units.reference(x, units, shortcut)
    first, second = pair
    out = pool.take_bordered(*second.output_size, second.n, second.k)[1:-1, 1:-1]
    target, extra = region(out), None if shortcut is None else region(to_hwnc(shortcut))
    first.begin_forward()
    second.begin_forward()
    relus = units[0].relu, units[1].relu

    def work(thread: int) -> None:
        images = first.shares[thread].images
        whole.evaluate_two(first, second, images, target, extra, relus, workspace(thread))

    parallel(work, len(first.shares))
    return logical(out)


def _convolutions(x: Array, units: list[EvaluationUnit]) -> tuple[Winograd, Winograd] | None:
    """The block's two convolutions with batch norm inside; None where they are not Winograd's."""
    if len(units) != 2 or not loops.compiled_in_use() or units[0].gamma.dtype != np.float32:
        return None
    one, two = units
    inside = _folded(one)
    first = strategy(x, inside.weight, one.stride, one.padding, inside.shift, unit=True)
    if not isinstance(first, Winograd):
        return None
    shape = (first.n, first.k, *first.output_size)
    if not Winograd.fits(np.broadcast_to(x.dtype.type(0), shape), two.weight, *two[5:7]):
        return None
    behind = _folded(two)
    second = Winograd.without_input(shape, behind.weight, behind.shift)  # its input: scratch
    use_again(first, inside)
    use_again(second, behind)
    return first, second


def _folded(unit: EvaluationUnit) -> Folded:
    return folded(
        unit.weight, unit.gamma, unit.beta, unit.running_mean, unit.running_var, unit.eps
    )
