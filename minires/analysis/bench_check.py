"""Before anything is timed: do the fast kernels compute what the reference computes?

Three checks, on a small batch and with the shapes of the model at hand:

1. Each operation. While the model takes training steps and infers on its kernels, every call of an
   operation is repeated by the reference in float64 on the very same inputs. Nothing accumulates,
   so the tolerances are tight.
2. The whole network against the float64 reference. Float32 cannot do better here than about half a
   percent in the gradient, and neither can the float32 reference: among a million values that enter
   a ReLU, a few lie so near to 0 that rounding moves them to the other side, and the gradient then
   passes, or not. The check therefore repeats the float64 pass with the ReLUs (and max pools)
   switched as the kernels switched them: now both are the same smooth function, and what is left
   is rounding.
3. Inference over the full batch gives each image the logits that it gets in the small one.

An error is |a - b| / |b|, Euclidean norms over a whole array, b from the reference in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minires.analysis.bench_contenders import LEARNING_RATE, random_batch
from minires.backend import (
    OPERATIONS,
    Array,
    Device,
    activation_dtype,
    kernels_in_use,
    observe_operations,
    options,
    reference_only,
    to_device,
    to_host,
)
from minires.models import build
from minires.nn import CrossEntropyLoss
from minires.optim import SGD

FORWARD_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
"""A sum of n float32 values of both signs is off by about sqrt(n) * 6e-8 of their size."""

NETWORK_TOLERANCE = 5e-4
"""Of the gradient of a whole network. Rounding grows on its way: measured are 3e-6 on ResNet-20,
1e-5 on ResNet-18 and 1e-4 on ResNet-50, whose last batch norms see four images of 4x4 pixels."""

TOLERANCES = {
    "fp32": (FORWARD_TOLERANCE, GRADIENT_TOLERANCE, FORWARD_TOLERANCE, NETWORK_TOLERANCE),
    "tf32": (2e-3, 5e-3, 2e-2, 5e-2),
    "fp16": (2e-3, 5e-3, 2e-2, 5e-2),
    "bf16": (1.5e-2, 4e-2, 1e-1, 3e-1),
}
"""Of an operation forward and backward, of a network's outputs and of its gradients. TF32 and
float16 keep 11 bits of a number, bfloat16 keeps 8."""

BATCH_SIZE = 4


@dataclass(frozen=True)
class CheckResult:
    """One comparison: the largest error of its kind, and what is allowed.

    A `tolerance` of None marks a number that is only told, not judged.
    """

    name: str
    error: float
    tolerance: float | None

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; what is not a number is not."""
        return self.tolerance is None or self.error <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "passed": self.passed}


def check_model(
    spec: dict[str, Any], device: Device, full_batch: int, seed: int = 0
) -> list[CheckResult]:
    """All checks of the model `build(**spec)` on the kernels that are loaded for `device`."""
    batch = random_batch(min(BATCH_SIZE, full_batch), seed)
    return [
        *check_operations(spec, batch, device),
        *check_network(spec, batch, device),
        check_full_batch(spec, batch, device, full_batch),
    ]


def relative_error(a: Any, b: Any) -> float:
    """|a - b| / |b| over arrays or lists of arrays; b is the truth. 0 where both are zero."""
    pairs = list(zip(a, b, strict=True)) if isinstance(a, list) else [(a, b)]
    wide = [(np.asarray(to_host(x), np.float64), np.asarray(to_host(y))) for x, y in pairs]
    difference = sum(float(np.square(x - y).sum()) for x, y in wide) ** 0.5
    size = sum(float(np.square(y).sum()) for _, y in wide) ** 0.5
    if difference == 0:
        return 0.0
    return difference / size if size else float("inf")


# --- 1. each operation ----------------------------------------------------------------------


class OperationCheck:
    """Repeats each outermost call on the reference in float64; keeps the worst error of each name.

    Arrays that an operation changes in place are compared after the call; all others must be as
    they were.
    """

    def __init__(self) -> None:
        self.errors: dict[str, float] = {}
        self._busy = False

    def __call__(self, name: str, run: Callable, args: tuple, kwargs: dict) -> Any:
        if self._busy:
            return run(*args, **kwargs)
        self._busy = True
        try:
            wide_args = tuple(in_float64(value) for value in args)
            wide_kwargs = {key: in_float64(value) for key, value in kwargs.items()}
            truth = OPERATIONS[name].reference(*wide_args, **wide_kwargs)
            result = run(*args, **kwargs)
        finally:
            self._busy = False
        for ours, theirs in zip(
            [*results_of(result), *arrays_among(args)],
            [*results_of(truth), *arrays_among(wide_args)],
            strict=True,
        ):
            self.errors[name] = max(self.errors.get(name, 0.0), relative_error(ours, theirs))
        return result


def check_operations(
    spec: dict[str, Any], batch: tuple[np.ndarray, np.ndarray], device: Device
) -> list[CheckResult]:
    """Each operation over two training steps and one inference."""
    model = build(**spec, device=device)
    optimizer, loss = SGD(model.named_parameters()), CrossEntropyLoss()
    images = to_device(batch[0].astype(activation_dtype(device), copy=False), device)
    labels = to_device(batch[1], device)
    check = OperationCheck()
    with observe_operations(check):
        for _ in range(2):
            optimizer.zero_grad()
            loss.forward(model(images), labels)
            model.backward(loss.backward())
            optimizer.step(LEARNING_RATE)
        model.eval()(images)
    return [CheckResult(n, e, tolerance_of(n)) for n, e in sorted(check.errors.items())]


def tolerance_of(operation: str) -> float:
    """The error that an operation of this name may have."""
    return TOLERANCES[options.precision][operation.endswith("_backward")]


def is_float(array: Any) -> bool:
    """Whether these are floating-point numbers, bfloat16 too, which NumPy takes for bytes."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def in_float64(value: Any) -> Any:
    """Float arrays as float64 copies, also inside caches; everything else as it is."""
    if isinstance(value, tuple):
        parts = [in_float64(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if hasattr(value, "dtype") and hasattr(value, "ndim") and is_float(value):
        return value.astype(np.float64)
    return value


def results_of(result: Any) -> list[Array]:
    """The float arrays that an operation returned, without those in its cache."""
    if isinstance(result, tuple) and not hasattr(result, "_fields"):
        return [array for part in result for array in results_of(part)]
    return arrays_among((result,))


def arrays_among(values: tuple) -> list[Array]:
    """The float arrays among `values`, and among the tuples there that are no cache."""
    found = []
    for value in values:
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            found += arrays_among(value)
        elif hasattr(value, "dtype") and is_float(value):
            found.append(value)
    return found


# --- 2. the network -------------------------------------------------------------------------


class Branches:
    """Which way each ReLU and each max pool went: noted in one pass, imposed on another.

    Both passes must run the same layers in the same order.
    """

    def __init__(self) -> None:
        self._taken: list[Array] = []
        self._depth = 0

    def note(self, name: str, run: Callable, args: tuple, kwargs: dict) -> Any:
        """An observer that makes the calls and notes the branches."""
        self._depth += 1
        try:
            result = run(*args, **kwargs)
        finally:
            self._depth -= 1
        if self._depth == 0:
            self._taken += [branch.copy() for branch in _branches_in(name, result)]
        return result

    def impose(self) -> Callable:
        """An observer that makes the calls and puts the noted branches into their caches."""
        remaining = iter(self._taken)

        def around(name: str, run: Callable, args: tuple, kwargs: dict) -> Any:
            result = run(*args, **kwargs)
            if name == "relu_forward":
                y, cache = result
                return y, cache._replace(y=next(remaining).astype(y.dtype))
            if name == "max_pool2d_forward":
                y, cache = result
                return y, cache._replace(winner=next(remaining))
            return result

        return around


def _branches_in(name: str, result: Any) -> Iterator[Array]:
    """Where the ReLU let through, or which pixel won, from the cache of an operation."""
    if name == "relu_forward":
        yield result[1].y > 0
    elif name == "max_pool2d_forward":
        yield result[1].winner
    elif name == "conv_bn_relu_forward" and result[1].relu is not None:
        yield result[1].relu.y > 0


def check_network(
    spec: dict[str, Any], batch: tuple[np.ndarray, np.ndarray], device: Device
) -> list[CheckResult]:
    """Loss and gradients of the whole model against the reference in float64."""
    branches = Branches()
    with observe_operations(branches.note):
        loss, gradients = loss_and_gradients(spec, batch, device)
    with reference_only():
        loss32, gradients32 = loss_and_gradients(spec, batch, device)
        wide = {**spec, "dtype": "float64"}
        truth, free = loss_and_gradients(wide, batch, device)
        with observe_operations(branches.impose()):
            _, same_branches = loss_and_gradients(wide, batch, device)
    outputs, of_gradients = TOLERANCES[options.precision][2:]
    return [
        CheckResult("network: loss", abs(loss - truth) / abs(truth), outputs),
        CheckResult(
            "network: gradients, same branches",
            relative_error(gradients, same_branches),
            of_gradients,
        ),
        CheckResult("network: gradients", relative_error(gradients, free), None),
        CheckResult("float32 reference: loss", abs(loss32 - truth) / abs(truth), None),
        CheckResult("float32 reference: gradients", relative_error(gradients32, free), None),
    ]


def loss_and_gradients(
    spec: dict[str, Any], batch: tuple[np.ndarray, np.ndarray], device: Device
) -> tuple[float, list[np.ndarray]]:
    """The loss of a new model on `batch`, and the gradients of all parameters."""
    model, loss = build(**spec, device=device), CrossEntropyLoss()
    wide = spec["dtype"] == "float64"
    dtype = np.float64 if wide else kernels_dtype(device)
    images = to_device(batch[0].astype(dtype), device)
    value = loss.forward(model(images), to_device(batch[1], device))
    model.backward(loss.backward())
    return float(value), [to_host(p.grad).copy() for _, p in model.named_parameters()]


def kernels_dtype(device: Device) -> np.dtype:
    """The type of a batch for the kernels; for the reference alone it is float32."""
    return activation_dtype(device) if kernels_in_use() else np.dtype(np.float32)


# --- 3. the full batch ----------------------------------------------------------------------


def check_full_batch(
    spec: dict[str, Any],
    batch: tuple[np.ndarray, np.ndarray],
    device: Device,
    full_batch: int,
) -> CheckResult:
    """Inference over `full_batch` images, the small batch repeated, against the reference."""
    wide = build(**{**spec, "dtype": "float64"}, device=device).eval()
    images = batch[0]
    with reference_only():
        truth = to_host(wide(to_device(images.astype(np.float64), device)))
    order = np.arange(full_batch) % len(images)
    stored = images[order].astype(activation_dtype(device), copy=False)
    logits = build(**spec, device=device).eval()(to_device(stored, device))
    name = "network: inference, full batch"
    return CheckResult(name, relative_error(logits, truth[order]), TOLERANCES[options.precision][2])
