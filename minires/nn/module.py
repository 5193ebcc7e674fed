"""Module, Parameter and Buffer: what every layer is made of.

A module has a forward and a backward pass and one slot for what backward needs. There is no tape:
a container calls its parts in order going forward, and in reverse going back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minires.backend import Array, Device, array_module, has_kernel, to_device, to_host
from minires.errors import BackwardError, CheckpointError
from minires.functional.gradients import add_in_place, assign_all_in_place, assign_in_place
from minires.processes import in_turn


class Parameter:
    """An array that is trained, with its gradient.

    `data` and `grad` have the same shape and dtype. `decay` says whether weight decay applies by
    default: yes for weights, no for biases and for the scale and shift of batch norm. A `frozen`
    parameter keeps its values: its gradient stays zero and no optimizer should be given it.
    """

    def __init__(self, data: Array, decay: bool = True) -> None:
        self.data = data
        self.decay = decay
        self.frozen = False
        self._grad: Array | None = None
        self._grad_is_zero = True
        self._waiting: Array | None = None  # a first gradient that `settle` has to copy

    @property
    def grad(self) -> Array:
        """The gradient accumulated since the last `zero_grad`."""
        if self._grad is None:
            self._grad = array_module(self.data).zeros_like(self.data)
        elif self._grad_is_zero:
            self._grad[...] = 0
        self._grad_is_zero = False
        settle([self])
        return self._grad

    def accumulate(self, grad: Array) -> None:
        """Add `grad`, an array of the parameter's shape, to the gradient (not of a frozen one).

        Where a kernel copies many gradients at once, the first one of a pass stays where it is
        until somebody looks. Processes that share a batch, and the memory of the gradient, add
        theirs one after the other.
        """
        if not self.frozen:
            in_turn(lambda: self._add(grad))

    def _add(self, grad: Array) -> None:
        if self._grad is None or not self._grad_is_zero:
            add_in_place(self.grad, grad)
            return
        if has_kernel("assign_all_in_place", grad):
            self._waiting = grad
        else:
            assign_in_place(self._grad, grad)
        self._grad_is_zero = False

    def zero_grad(self) -> None:
        """Start a new accumulation; the old values are overwritten, not cleared first."""
        self._grad_is_zero, self._waiting = True, None

    def rehome(self, data: Array, grad: Array) -> None:
        """Move the values into `data` and the gradient into `grad`, arrays of the same shape."""
        data[...] = self.data
        if self._grad is not None:
            grad[...] = self.grad
        self.data, self._grad = data, grad

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape, as in PyTorch."""
        return self.data.shape

    @property
    def size(self) -> int:
        """The number of values."""
        return self.data.size


def settle(parameters: Iterable[Parameter]) -> None:
    """Copy the gradients that still stand where their operations left them: all at once."""
    waiting = [p for p in parameters if p._waiting is not None]
    if waiting:
        targets, values = zip(*((p._grad, p._waiting) for p in waiting), strict=True)
        assign_all_in_place(targets, values)
    for parameter in waiting:
        parameter._waiting = None


class Buffer:
    """An array that belongs to a module's state but is not trained, such as a running mean."""

    def __init__(self, data: Array) -> None:
        self.data = data


class Module:
    """The base of all layers: parameters, buffers, sub-modules and one cache slot.

    Attributes that are a `Parameter`, `Buffer` or `Module` are found by looking at the instance;
    their names, joined by dots, are PyTorch's (`layer1.0.conv1.weight`).
    """

    def __init__(self) -> None:
        self.training = True
        self.stays_in_evaluation = False
        self._cache: Any = None
        self._observer: Callable[[Array, Array], None] | None = None

    def forward(self, x: Array) -> Array:
        """Compute the output; in training, keep what backward needs."""
        raise NotImplementedError

    def backward(self, grad_output: Array) -> Array:
        """Turn the gradient of the output into that of the input; fill the parameters' `.grad`."""
        raise NotImplementedError

    def __call__(self, *inputs: Array) -> Array:
        """`forward`, and tell the observer, if there is one."""
        y = self.forward(*inputs)
        if self._observer is not None:
            self._observer(inputs[0], y)
        return y

    def _store(self, cache: Any) -> None:
        self._cache = cache if self.training else None

    def _take(self) -> Any:
        """The cache of the last training forward pass; the slot is empty afterwards."""
        if self._cache is None:
            raise BackwardError(
                f"{type(self).__name__}.backward needs a forward pass in training mode before it, "
                "one for each backward pass"
            )
        cache, self._cache = self._cache, None
        return cache

    # --- the tree ---------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside this one, in the order in which they were assigned."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module (named `prefix`) and all modules inside it."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(_join(prefix, name))

    def modules(self) -> Iterator[Module]:
        """This module and all modules inside it."""
        return (module for _, module in self.named_modules())

    def _named(self, kind: type) -> Iterator[tuple[str, Any]]:
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, kind):
                    yield _join(prefix, name), value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their names."""
        return self._named(Parameter)

    def trainable_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """The parameters that are not frozen, with their names: what an optimizer is given."""
        return ((name, p) for name, p in self.named_parameters() if not p.frozen)

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """All buffers with their names."""
        return self._named(Buffer)

    # --- modes ------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Module:
        """Training mode: batch statistics, dropout, caches. Returns the module.

        Modules with `stays_in_evaluation` set do: nothing in front of them is trained.
        """
        for module in self.modules():
            module.training = mode and not module.stays_in_evaluation
            module._cache = None
        return self

    def eval(self) -> Module:
        """Evaluation mode: running statistics, no dropout, no caches. Returns the module."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Start a new accumulation of gradients in all parameters."""
        for _, parameter in self.named_parameters():
            parameter.zero_grad()

    def set_step(self, step: int) -> None:
        """Tell the layers that draw random numbers which training step this is."""
        for module in self.modules():
            if hasattr(module, "step"):
                module.step = step

    def to(self, device: Device) -> Module:
        """Move parameters and buffers to `device`; gradients start anew. Returns the module."""
        for _, parameter in self.named_parameters():
            parameter.data = to_device(parameter.data, device)
            parameter.zero_grad()
            parameter._grad = None
        for name, buffer in self.named_buffers():
            if not name.endswith("num_batches_tracked"):
                buffer.data = to_device(buffer.data, device)
        return self

    # --- state ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers, in host memory, by PyTorch's names."""
        state = {}
        for name, holder in (*self.named_parameters(), *self.named_buffers()):
            state[name] = np.array(to_host(holder.data), order="C")
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set all parameters and buffers from `state`, names and shapes as in `state_dict`.

        Only `num_batches_tracked` may be missing. Raises `CheckpointError` that lists what is
        missing, unexpected or of a wrong shape; then nothing has changed.
        """
        holders = dict((*self.named_parameters(), *self.named_buffers()))
        problems = state_problems({k: h.data.shape for k, h in holders.items()}, state)
        if problems:
            raise CheckpointError("the weights do not fit this model: " + "; ".join(problems))
        for name, holder in holders.items():
            if name in state:
                if holder.data.ndim == 0:
                    holder.data = np.array(to_host(state[name]), dtype=holder.data.dtype)
                else:
                    _assign(holder.data, state[name])


def convolution_weights(model: Module) -> list[Array]:
    """The arrays (K, C, k, k) that the convolutions of `model` multiply with."""
    return [p.data for _, p in model.named_parameters() if p.data.ndim == 4]


def state_problems(shapes: dict[str, tuple[int, ...]], state: dict[str, Any]) -> list[str]:
    """What keeps `state` from being loaded into a model with `shapes`, in a few words each."""
    missing = [n for n in shapes if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in shapes]
    wrong = [
        f"{n} is {tuple(state[n].shape)} instead of {shapes[n]}"
        for n in shapes
        if n in state and tuple(state[n].shape) != tuple(shapes[n])
    ]
    problems = []
    for label, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", wrong)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            problems.append(f"{label}: {', '.join(names[:5])}{more}")
    return problems


@contextmanager
def observe(
    model: Module, callback: Callable[[str, Module, Array, Array], None]
) -> Iterator[None]:
    """Call `callback(name, module, x, y)` after each module's forward pass in the context.

    Fused units run their layers one by one meanwhile, so every layer is seen.
    """
    named = list(model.named_modules())
    for name, module in named:
        module._observer = lambda x, y, n=name, m=module: callback(n, m, x, y)
    try:
        yield
    finally:
        for _, module in named:
            module._observer = None


@contextmanager
def observe_gradients(
    model: Module, callback: Callable[[str, Module, Array], None]
) -> Iterator[None]:
    """Call `callback(name, module, grad_output)` before each layer's backward pass in the context.

    It works for layers that run one by one, as those under `observe` do.
    """
    layers = [(n, m) for n, m in model.named_modules() if not list(m.named_children())]

    def around(name: str, module: Module) -> Callable[[Array], Array]:
        backward = module.backward

        def run(grad_output: Array) -> Array:
            callback(name, module, grad_output)
            return backward(grad_output)

        return run

    for name, module in layers:
        module.backward = around(name, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for _, module in layers:
            del module.backward


def _assign(target: Array, values: Any) -> None:
    host = np.asarray(to_host(values)).astype(target.dtype)
    target[...] = array_module(target).asarray(host)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
