"""What the benchmark lets run against each other: minires in its variants, PyTorch in its layouts.

All contenders of one run start from the same weights and get the same batch. A training step is
forward, loss, backward and the update (SGD with momentum 0.9, Nesterov, weight decay 5e-4 on all
parameters), with the gradients reset; inference is a forward pass in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from minires.backend import (
    Device,
    activation_dtype,
    cuda_module,
    fixed_weights,
    options,
    synchronize,
    to_device,
)
from minires.errors import UsageError
from minires.models import build
from minires.models.registry import OPTIONS, architecture_of
from minires.nn import CrossEntropyLoss
from minires.optim import SGD, LossScaler
from minires.training.data_parallel import DataParallel
from minires.training.graph import GraphedStep
from minires.training.step import TrainingStep

TRAINING, INFERENCE = "training", "inference"

LEARNING_RATE = 1e-3
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4

LAYOUTS = ("nchw", "channels_last")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")

RUNGS = ("wgmma", "tma")
"""The convolutions on Hopper: with copies of many threads, and with bulk copies."""

GPU_REPEATS = 20
"""Steps in one go on a GPU: waiting for each would time the way there and back as well."""

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

    `prepare(mode)` puts it into a mode, untimed; `begin()` starts the work once, and `finish()`
    returns when all that was begun is done. `repeats` is how often the work is begun in one go to
    be timed: more than once on a GPU, which starts on the next step before it has ended the last.
    """

    name: str
    is_torch = False
    is_compiled = False
    """Whether torch.compile made it: such contenders are compared with apart."""
    repeats = 1

    def prepare(self, mode: str) -> None:
        """Get ready to run in `mode`, TRAINING or INFERENCE."""
        raise NotImplementedError

    def begin(self) -> None:
        """One training step, or one inference over the batch."""
        raise NotImplementedError

    def finish(self) -> None:
        """Wait for the device."""

    def run(self) -> None:
        """The work once, and wait for it."""
        self.begin()
        self.finish()


class MiniresContender(Contender):
    """This library; `loops` is "numpy" or "numba" on the CPU, None on a GPU, or a rung there.

    On a GPU the steps run as a graph unless `graph` is False, in the precision that was chosen with
    the device, on the stream of `kernels.cuda.runtime`'s `own_stream`.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        batch: tuple[np.ndarray, np.ndarray],
        device: Device,
        loops: str | None = None,
        graph: bool = True,
    ) -> None:
        self.name = "minires" if loops is None else f"minires-{loops}"
        self.device, self.loops = device, loops
        self.repeats = 1 if device.kind == "cpu" else GPU_REPEATS
        self.model = build(**spec, device=device)
        optimizer = SGD(
            self.model.named_parameters(),
            momentum=MOMENTUM,
            nesterov=True,
            weight_decay=WEIGHT_DECAY,
            decay_all=True,
        )
        scaler = LossScaler(device) if options.precision == "fp16" else None
        self.network = DataParallel(self.model, len(batch[0]))
        self.work = TrainingStep(self.network, CrossEntropyLoss(), optimizer, scaler)
        images = batch[0].astype(activation_dtype(device), copy=False)
        self.images, self.labels = (to_device(array, device) for array in (images, batch[1]))
        self.notes: list[str] = []
        self._graphed = None
        if device.kind == "gpu" and graph:
            totals = to_device(np.zeros(2), device)
            here = self.images, self.labels  # the same batch in every step
            self._graphed = GraphedStep(
                self.work, device, totals, self.notes.append, lambda indices, epoch: here
            )
        self._training, self._steps = True, 0

    def prepare(self, mode: str) -> None:
        """Choose the loops and the mode of the model."""
        if self.loops is not None:
            choose_loops(self.loops)
        self._training = mode == TRAINING
        if self.network.training != self._training:
            self.network.train(self._training)

    def begin(self) -> None:
        """One training step, or one inference over the batch."""
        if not self._training:
            with fixed_weights(self.work.weights):
                self.network(self.images)
        elif self._graphed is None:
            self.step()
        else:
            self._graphed.run(self.labels, 0, self._steps, LEARNING_RATE, None, None)
            self._steps += 1

    def step(self) -> None:
        """One training step, operation by operation."""
        self.work.forward_backward(self.images, self.labels)
        self.work.update(LEARNING_RATE)

    def finish(self) -> None:
        """Wait for the device."""
        synchronize(self.device)


class TorchContender(Contender):
    """The twin of a model in PyTorch; `layout` is one of `LAYOUTS`, `compiled` of `COMPILE_MODES`.

    The update is PyTorch's fused SGD where this version of PyTorch has it; 16-bit precisions are
    its autocast, with its GradScaler for float16. Raises `Unavailable` without PyTorch, without a
    twin, or (at the first run) where torch.compile does not work.
    """

    is_torch = True

    def __init__(
        self,
        spec: dict[str, Any],
        batch: tuple[np.ndarray, np.ndarray],
        device: Device,
        threads: int,
        layout: str,
        compiled: str | None = None,
        precision: str = "fp32",
    ) -> None:
        torch = import_torch()
        torch.set_num_threads(threads)
        self.torch, self.is_compiled = torch, compiled is not None
        suffix = {None: "", "default": "-compile"}.get(compiled, f"-{compiled}")
        self.name = f"torch-{layout}{suffix}"
        self.repeats = 1 if device.kind == "cpu" else GPU_REPEATS
        self.device = torch.device("cuda", device.index) if device.kind == "gpu" else "cpu"
        if device.kind == "gpu":
            torch.backends.cudnn.benchmark = True
            torch.backends.cudnn.allow_tf32 = precision == "tf32"
            torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        self._half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        kind = "cuda" if device.kind == "gpu" else "cpu"
        self._kind, self._scaler = kind, None
        if precision == "fp16":
            self._scaler = torch.amp.GradScaler(kind)
        memory = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}[layout]
        twin = torch_twin(build(**spec))
        self.model = twin.to(device=self.device, memory_format=memory)
        self.images = torch.from_numpy(batch[0]).to(self.device).to(memory_format=memory)
        self.labels = torch.from_numpy(batch[1]).to(self.device)
        self.optimizer = _torch_sgd(torch, self.model)
        self._forward = self.model
        if compiled is not None:
            mode = {} if compiled == "default" else {"mode": compiled}
            self._forward = torch.compile(self.model, **mode)
        self._training = True

    def prepare(self, mode: str) -> None:
        """Choose the mode of the model."""
        self._training = mode == TRAINING
        self.model.train(self._training)

    def begin(self) -> None:
        """One training step, or one inference over the batch."""
        torch = self.torch
        half = torch.autocast(self._kind, self._half) if self._half else nullcontext()
        if not self._training:
            with torch.inference_mode(), half:
                self._forward(self.images)
            return
        self.optimizer.zero_grad()
        with half:
            logits = self._forward(self.images)
            loss = torch.nn.functional.cross_entropy(logits, self.labels)
        if self._scaler is None:
            loss.backward()
            self.optimizer.step()
        else:
            self._scaler.scale(loss).backward()
            self._scaler.step(self.optimizer)
            self._scaler.update()

    def finish(self) -> None:
        """Wait for the device."""
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

    [None] on a GPU; `RUNGS` where MINIRES_TMA asks for the second of them and it can run. Raises
    `UsageError` for "numba" where it cannot be used.
    """
    if device.kind != "cpu":
        rungs = cuda_module("conv2d").rungs(activation_dtype(device))
        return [*RUNGS] if cuda_module("tma").Tma in rungs else [None]
    from minires.kernels.cpu import loops

    compiled = loops.why_not_compiled is None
    if wanted == "numba" and not compiled:
        raise UsageError(f"--loops numba: {loops.why_not_compiled}")
    if wanted != "auto":
        return [wanted]
    return ["numpy", "numba"] if compiled else ["numpy"]


def choose_loops(name: str) -> None:
    """Run the CPU kernels with the loops "numpy" or "numba", or a GPU's with one of `RUNGS`."""
    if name in RUNGS:
        cuda_module("tma").choose(name == "tma")
        return
    from minires.kernels.cpu import loops

    if loops.compiled_in_use() != (name == "numba"):
        loops.use_compiled(name == "numba")


@contextmanager
def loops_restored(device: Device) -> Iterator[None]:
    """Put the choice of loops back when the context ends."""
    if device.kind != "cpu":
        with cuda_module("tma").chosen(None):
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
    """The contender called `name`: minires, minires-numpy, torch-nchw or torch-channels_last."""
    family, *rest = name.split("-")
    if family == "minires":
        return MiniresContender(spec, batch, device, rest[0] if rest else None)
    return TorchContender(spec, batch, device, threads, rest[0], precision=options.precision)
