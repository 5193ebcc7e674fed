"""Before a training on a GPU: does each rung of the convolution agree with the next lower one?

The kernels were proved without this GPU, this driver and this compiler. So a few small convolutions
run on every rung that the training may use, and the lowest rung runs against the reference. A rung
that differs, or that cannot be launched, is switched off, and the next lower one runs in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minires.backend import Array, options, to_host
from minires.errors import DeviceError
from minires.functional import conv
from minires.kernels.cuda import precision
from minires.kernels.cuda.arrays import logical
from minires.kernels.cuda.batch_norm import batch_affine, finish_moments
from minires.kernels.cuda.conv2d import rungs, switched_off
from minires.kernels.cuda.runtime import constant

TOLERANCES = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 5e-3, "bf16": 4e-2}
"""Of |a - b| / |b|, Euclidean norms over an array: rounding leaves less, a wrong index far more."""

EPS = 1e-5


class Case(NamedTuple):
    """A convolution of N images of C x side x side to K channels."""

    n: int
    c: int
    side: int
    k: int
    kernel: int
    stride: int

    @property
    def padding(self) -> int:
        """Of a ResNet."""
        return self.kernel // 2


CASES = (
    Case(8, 3, 32, 16, 3, 1),
    Case(8, 16, 32, 32, 3, 2),
    Case(16, 64, 32, 64, 3, 1),
    Case(8, 64, 32, 128, 3, 2),
    Case(8, 64, 32, 128, 1, 2),
    Case(64, 128, 16, 128, 3, 1),
    Case(64, 256, 16, 256, 3, 1),
)
"""The shapes of ResNets, in batches that reach every width of the kernels' tiles."""

PARTS = ("output", "statistics", "gradient of the input", "gradient of the weights")

_checked: set[tuple[str, str]] = set()


def check_rungs(say: Callable[[str], None]) -> None:
    """Switch off what disagrees with the next lower rung, in the precision that is set.

    `say` gets one line for each rung that is switched off. Once a process for each precision and
    `--conv`. Raises `DeviceError` where a kernel left the GPU unusable.
    """
    key = precision.current.name, options.conv
    if key in _checked:
        return
    for case in CASES:
        try:
            _check(case, say)
        except MemoryError:  # the training will meet it too, and tell what to do
            return
    _checked.add(key)


def _check(case: Case, say: Callable[[str], None]) -> None:
    arrays = _draw(case)
    trusted, name = _reference(case, *arrays), "the reference"
    for rung in reversed(rungs(precision.current.dtype)):
        try:
            results = _run(rung, case, *arrays)
            problem = _difference(results, trusted, name)
        except MemoryError:
            raise
        except Exception as error:  # the compiler, the driver and CuPy raise many types
            problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
            _refuse_broken_device(rung, problem)
        if problem is None:
            trusted, name = results, rung.__name__
            continue
        switched_off.add(rung)
        say(
            f"warning: {rung.__name__} convolutions are switched off, slower ones run: {problem} "
            f"({case.c} to {case.k} channels, stride {case.stride}); please report this line"
        )


def _draw(case: Case) -> tuple[Array, Array, Array]:
    """x (N, H, W, C), weight (K, C, R, S) and the gradient of the output (N, P, Q, K)."""
    rng = np.random.default_rng(0)
    dtype, outputs = precision.current.dtype, -(-case.side // case.stride)
    x = rng.standard_normal((case.n, case.side, case.side, case.c), np.float32) + np.float32(0.25)
    grad = rng.standard_normal((case.n, outputs, outputs, case.k), np.float32)
    weight = rng.standard_normal((case.k, case.kernel, case.kernel, case.c), np.float32)
    weight /= np.float32(case.kernel * case.c**0.5)
    return constant(x.astype(dtype)), logical(constant(weight)), constant(grad.astype(dtype))


def _run(rung: type, case: Case, x: Array, weight: Array, grad: Array) -> list[np.ndarray]:
    """What `rung` makes of them: the `PARTS`."""
    work = rung(x.shape, weight, case.stride, case.padding)
    y, partial = work.forward(x, weight, moments=True)
    ones, zeros = (constant(np.full(case.k, value, np.float32)) for value in (1, 0))
    vectors = ones, zeros, zeros, ones  # the running statistics are moved, and forgotten
    if partial is None:
        affine = batch_affine(y, *vectors, 0.0, EPS)
    else:
        rows = y.size // case.k
        affine = finish_moments(partial, work.slab, rows, *vectors, 0.0, EPS)
    grad_x, grad_weight = work.input_gradient(grad, weight), work.weight_gradient(x, grad)
    return [_widened(y), to_host(affine.table[:2]), _widened(grad_x), to_host(grad_weight)]


def _reference(case: Case, x: Array, weight: Array, grad: Array) -> list[np.ndarray]:
    """The same by the reference in float32."""
    rounded = constant(to_host(weight).astype(x.dtype).astype(np.float32))
    wide_x, wide_grad = (constant(_widened(a)) for a in (x, grad))
    y, cache = conv.conv2d_forward.reference(wide_x, rounded, None, case.stride, case.padding)
    grads = conv.conv2d_backward.reference(wide_grad, cache)[:2]
    y, *grads = (to_host(a) for a in (y, *grads))
    statistics = np.stack([y.mean((0, 2, 3)), 1 / np.sqrt(y.var((0, 2, 3)) + EPS)])
    return [y, statistics, *grads]


def _widened(nhwc: Array) -> np.ndarray:
    """An (N, H, W, C) array as float32 (N, C, H, W) on the host.

    No training needs CuPy's own kernels for 16-bit types, so their absence is no error here.
    """
    return logical(to_host(nhwc).astype(np.float32))


def _difference(results: list[np.ndarray], trusted: list[np.ndarray], name: str) -> str | None:
    """Where `results` differ too much from those of `name`, in words; None if they do not."""
    allowed = TOLERANCES[precision.current.name]
    for part, got, expected in zip(PARTS, results, trusted, strict=True):
        error = float(np.linalg.norm((got - expected).ravel()) / np.linalg.norm(expected.ravel()))
        if not error <= allowed:  # NaN is no agreement
            return f"the {part} differs from {name} by {error:.1e}, allowed {allowed:.0e}"
    return None


def _refuse_broken_device(rung: type, problem: str) -> None:
    """Raise `DeviceError` if the error has left the GPU unusable: no other rung would run."""
    try:
        usable = int(to_host(constant(np.arange(4))).sum()) == 6
    except Exception:
        usable = False
    if not usable:
        raise DeviceError(
            f"the GPU stopped working in the check of {rung.__name__} convolutions ({problem}); "
            "use --conv direct or --device cpu, and please report this line"
        )
