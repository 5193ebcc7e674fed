"""What the benchmark lets run against each other: minires in its variants, PyTorch in its layouts.

All contenders of one run start from the same weights and get the same batch. A training step is
forward, loss, backward and the update (SGD with momentum 0.9, Nesterov, weight decay 5e-4 on all
parameters), with the gradients reset; inference is a forward pass in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minires.backend import Device, synchronize, to_device
from minires.errors import UsageError
from minires.models import build
from minires.models.registry import OPTIONS, architecture_of
from minires.nn import CrossEntropyLoss
from minires.optim import SGD

TRAINING, INFERENCE = "training", "inference"

LEARNING_RATE = 1e-3
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4

LAYOUTS = ("nchw", "channels_last")

_TWIN_OPTIONS = {"width", "plain", "shortcut", "zero_init_residual"}


class Unavailable(Exception):
    """A contender that cannot run here; the message is the reason in a few words."""


def random_batch(batch_size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) float32, standard normal, and labels (N,) int64, 0 to 9."""
    random = np.random.default_rng(seed)
    images = random.standard_normal((batch_size, 3, 32, 32), dtype=np.float32)
    return images, random.integers(0, 10, batch_size)


class Contender:
    """Something that can take a training step and infer.

    `prepare(mode)` puts it into a mode, untimed; `run()` then does the work once and returns when
    it is done.
    """

    name: str
    is_torch = False
    is_compiled = False
    """Whether torch.compile made it: such contenders are compared with apart."""

    def prepare(self, mode: str) -> None:
        """Get ready to run in `mode`, TRAINING or INFERENCE."""
        raise NotImplementedError

    def run(self) -> None:
        """One training step, or one inference over the batch."""
        raise NotImplementedError


class MiniresContender(Contender):
    """This library; `loops` is "numpy" or "numba" on the CPU, None on a GPU."""

    def __init__(
        self,
        spec: dict[str, Any],
        batch: tuple[np.ndarray, np.ndarray],
        device: Device,
        loops: str | None = None,
    ) -> None:
        self.name = "minires" if loops is None else f"minires-{loops}"
        self.device, self.loops = device, loops
        self.model = build(**spec, device=device)
        self.loss = CrossEntropyLoss()
        self.optimizer = SGD(
            self.model.named_parameters(),
            momentum=MOMENTUM,
            nesterov=True,
            weight_decay=WEIGHT_DECAY,
            decay_all=True,
        )
        self.images, self.labels = (to_device(array, device) for array in batch)
        self._training = True

    def prepare(self, mode: str) -> None:
        """Choose the loops and the mode of the model."""
        if self.loops is not None:
            choose_loops(self.loops)
        self._training = mode == TRAINING
        if self.model.training != self._training:
            self.model.train(self._training)

    def run(self) -> None:
        """One training step, or one inference over the batch."""
        if self._training:
            self.optimizer.zero_grad()
            self.loss.forward(self.model(self.images), self.labels)
            self.model.backward(self.loss.backward())
            self.optimizer.step(LEARNING_RATE)
        else:
            self.model(self.images)
        synchronize(self.device)


class TorchContender(Contender):
    """The twin of a model in PyTorch; `layout` is one of `LAYOUTS`.

    The update is PyTorch's fused SGD where this version of PyTorch has it. Raises `Unavailable`
    without PyTorch, without a twin, or (at the first run) where torch.compile does not work.
    """

    is_torch = True

    def __init__(
        self,
        spec: dict[str, Any],
        batch: tuple[np.ndarray, np.ndarray],
        device: Device,
        threads: int,
        layout: str,
        compiled: bool = False,
    ) -> None:
        torch = import_torch()
        torch.set_num_threads(threads)
        self.torch, self.is_compiled = torch, compiled
        self.name = f"torch-{layout}" + ("-compile" if compiled else "")
        self.device = torch.device("cuda", device.index) if device.kind == "gpu" else "cpu"
        memory = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}[layout]
        twin = torch_twin(build(**spec))
        self.model = twin.to(device=self.device, memory_format=memory)
        self.images = torch.from_numpy(batch[0]).to(self.device).to(memory_format=memory)
        self.labels = torch.from_numpy(batch[1]).to(self.device)
        self.optimizer = _torch_sgd(torch, self.model)
        self._forward = torch.compile(self.model) if compiled else self.model
        self._training = True

    def prepare(self, mode: str) -> None:
        """Choose the mode of the model."""
        self._training = mode == TRAINING
        self.model.train(self._training)

    def run(self) -> None:
        """One training step, or one inference over the batch."""
        if self._training:
            self.optimizer.zero_grad()
            logits = self._forward(self.images)
            self.torch.nn.functional.cross_entropy(logits, self.labels).backward()
            self.optimizer.step()
        else:
            with self.torch.inference_mode():
                self._forward(self.images)
        if self.device != "cpu":
            self.torch.cuda.synchronize(self.device)


def import_torch() -> Any:
    """The module `torch`; `Unavailable` if it is not installed or does not load."""
    try:
        import torch
    except (ImportError, OSError) as error:
        raise Unavailable(f"PyTorch is not installed or does not load ({error})") from error
    return torch


def torch_twin(model: Any) -> Any:
    """The torch.nn network with the weights of `model`; `Unavailable` where there is no twin."""
    from minires.analysis.torch_models import build_torch

    spec = model.spec
    try:
        widths = architecture_of(spec["name"]).widths
    except UsageError as error:
        raise Unavailable(f"{spec['name']} has no twin in PyTorch to compare with") from error
    for option, default in OPTIONS.items():
        if spec[option] != default and option not in _TWIN_OPTIONS:
            raise Unavailable(f"no twin in PyTorch has the option {option}")
    twin = build_torch(
        spec["name"],
        spec["num_classes"],
        widths=tuple(max(1, round(width * spec["width"])) for width in widths),
        shortcut=spec["shortcut"],
        plain=spec["plain"],
    )
    torch = import_torch()
    twin.load_state_dict({k: torch.from_numpy(v) for k, v in model.state_dict().items()})
    return twin


def _torch_sgd(torch: Any, model: Any) -> Any:
    """PyTorch's SGD with this benchmark's settings, in its fastest form."""
    settings = {
        "lr": LEARNING_RATE,
        "momentum": MOMENTUM,
        "nesterov": True,
        "weight_decay": WEIGHT_DECAY,
    }
    try:
        return torch.optim.SGD(model.parameters(), **settings, fused=True)
    except (TypeError, RuntimeError):
        return torch.optim.SGD(model.parameters(), **settings)


def available_loops(device: Device, wanted: str = "auto") -> list[str | None]:
    """The variants of minires to run: those of "numpy" and "numba" that are here and `wanted`.

    [None] on a GPU. Raises `UsageError` for "numba" where it cannot be used.
    """
    if device.kind != "cpu":
        return [None]
    from minires.kernels.cpu import loops

    compiled = loops.why_not_compiled is None
    if wanted == "numba" and not compiled:
        raise UsageError(f"--loops numba: {loops.why_not_compiled}")
    if wanted != "auto":
        return [wanted]
    return ["numpy", "numba"] if compiled else ["numpy"]


def choose_loops(name: str) -> None:
    """Run the CPU kernels with the loops "numpy" or "numba"."""
    from minires.kernels.cpu import loops

    if loops.compiled_in_use() != (name == "numba"):
        loops.use_compiled(name == "numba")


@contextmanager
def loops_restored(device: Device) -> Iterator[None]:
    """Put the choice of loops back when the context ends."""
    if device.kind != "cpu":
        yield
        return
    from minires.kernels.cpu import loops

    before = loops.compiled_in_use()
    try:
        yield
    finally:
        loops.use_compiled(before)


def make_contender(
    name: str,
    spec: dict[str, Any],
    batch: tuple[np.ndarray, np.ndarray],
    device: Device,
    threads: int,
) -> Contender:
    """The contender called `name`: minires, minires-numpy, torch-nchw, torch-nchw-compile, ..."""
    family, *rest = name.split("-")
    if family == "minires":
        return MiniresContender(spec, batch, device, rest[0] if rest else None)
    return TorchContender(spec, batch, device, threads, rest[0], "compile" in rest)
