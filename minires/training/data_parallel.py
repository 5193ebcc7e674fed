"""Data parallelism on the CPU: processes that each take some images of every batch.

Each process has the same network. Forward, it computes the logits of its own images; backward, the
gradients that its own images give, and the sum over the processes is the batch's gradient. Batch
norm's statistics stay those of the whole batch (`minires.processes`), so the mathematics is
that of one process, up to the order of sums. PyTorch calls the two halves of this
DistributedDataParallel and SyncBatchNorm.

The helping processes are forked when the first batch comes, and wait for orders: a forward pass, or
a backward pass. Weights and running statistics lie in memory that all share, so what the optimizer
writes is everybody's. Helpers ignore Ctrl-C and die with the process that forked them.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import threading
import traceback
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np

from minires.backend import Array, kernels_in_use, options, shared_zeros
from minires.errors import DeviceError
from minires.functional.gradients import add_in_place
from minires.nn import Module, Parameter
from minires.processes import ProcessGroup, sharing

LEAST_IMAGES = 32
"""A process with fewer images of a batch would do more for the filters than for the images."""

MOST_WEIGHTS = 8_000_000
"""Each process has its own gradients and transformed filters. With more weights that is too much
memory for a few percent of speed, unless somebody asks for it."""

_FORWARD, _BACKWARD, _PEAK = range(1, 4)
_ORDER_VALUES = 8
_OUTPUT_VALUES = 4096  # of an image, at most; memory that is not touched costs nothing
_MESSAGE_BYTES = 4000
_IGNORED = signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, linux/prctl.h


def processes_for(module: Module, batch_size: int) -> int:
    """How many processes share a batch of `batch_size` images: 1 where that would not pay.

    Also 1 where the weights are not float32: the kernels know of other processes, the reference
    does not.
    """
    processes = options.processes
    if any(p.data.dtype != np.float32 for _, p in module.named_parameters()):
        return 1
    if processes is None:
        large = sum(p.size for _, p in module.named_parameters()) > MOST_WEIGHTS
        processes = 1 if large else options.threads
    return max(1, min(processes, batch_size // LEAST_IMAGES))


class DataParallel(Module):
    """`module`, computed by `processes_for` so many processes; by this one alone, if that is 1.

    It has the `forward` and `backward` of `module`, whose parameters' gradients are the sums over
    all images afterwards. What it does not see: a change of `module` after the first batch, except
    of weights that an optimizer holds, of buffers, and of the mode. Close it, or use it as a
    context. A helper that ends early raises `DeviceError`. In a Python thread that is not the main
    one, and on what the reference alone computes, such as float64, this process works alone.
    """

    def __init__(self, module: Module, batch_size: int) -> None:
        super().__init__()
        self.module = module
        self.training = module.training
        self.batch_size = batch_size
        self.processes = processes_for(module, batch_size)
        self._helpers: _Helpers | None = None
        self._shared = False  # whether the helpers took part in the last forward pass

    def forward(self, x: Array) -> Array:
        """The logits (N, K) of x (N, C, H, W)."""
        self._shared = self._worth_sharing(x) and self._ready(x)
        if not self._shared:
            return self.module(x)
        with self._closed_after_an_error():
            return self._helpers.forward(x)

    def backward(self, grad_output: Array) -> None:
        """Fill the parameters' `.grad` from the logits' gradient (N, K)."""
        if not self._shared:
            self.module.backward(grad_output)
            return
        with self._closed_after_an_error():
            self._helpers.backward(grad_output)

    def peak_bytes(self) -> int:
        """The most memory that the helpers have needed, beyond what they were forked with."""
        return 0 if self._helpers is None else self._helpers.peak_bytes()

    def close(self) -> None:
        """End the helpers."""
        if self._helpers is not None:
            self._helpers.end()
            self._helpers = None

    def __enter__(self) -> DataParallel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def _worth_sharing(self, x: Array) -> bool:
        """Whether there are images for two processes, and kernels that take shares of them.

        The system kills a helper when the thread that forked it ends, so only the main thread has
        helpers.
        """
        enough = self.processes > 1 and len(x) >= 2 * LEAST_IMAGES
        on_kernels = kernels_in_use() and x.dtype == np.float32
        return enough and on_kernels and threading.current_thread() is threading.main_thread()

    def _ready(self, x: Array) -> bool:
        """Whether there are helpers that can take `x`; they are forked if need be."""
        if self._helpers is not None and not self._helpers.can_take(x):
            self.close()
        if self._helpers is None:
            try:
                room = max(self.batch_size, len(x)), x.size // len(x)
                self._helpers = _Helpers(self.module, self.processes, *room)
            except OSError:  # no more processes, or no semaphores: it works without
                self.processes = 1
        return self._helpers is not None

    @contextmanager
    def _closed_after_an_error(self):
        try:
            yield
        except BaseException:
            self.close()
            raise


class _Helpers:
    """The forked processes, and what lies between them and this one.

    An order is a row of integers. After it, all compute, and meet again when the answer is there.
    """

    def __init__(self, module: Module, processes: int, batch_size: int, image_values: int) -> None:
        self.module = module
        self.threads = max(1, options.threads // processes)
        self.group = ProcessGroup(processes)
        self.group.look = self._look
        self.order = shared_zeros(_ORDER_VALUES, np.int64)
        self.message = shared_zeros(_MESSAGE_BYTES, np.uint8)
        self.peaks = shared_zeros(processes, np.int64)
        self.images = shared_zeros(batch_size * image_values, np.float32)
        self.outputs = shared_zeros(batch_size * _OUTPUT_VALUES, np.float32)
        self.parameters = [p for _, p in module.named_parameters() if not p.frozen]
        self.gradients = [_shared_like(self.parameters) for _ in range(1, processes)]
        self.drawing = [m for m in module.modules() if hasattr(m, "step")]
        self.buffers = [b for _, b in module.named_buffers() if b.data.ndim]
        for buffer in self.buffers:
            shared = shared_zeros(buffer.data.size, buffer.data.dtype).reshape(buffer.data.shape)
            shared[...] = buffer.data
            buffer.data = shared
        self.pids: list[int] = []
        self.parent = os.getpid()
        weakref.finalize(self, _end, self.pids, self.parent)
        try:
            for rank in range(1, processes):
                self.pids.append(self._fork(rank))
        except OSError:
            self.end()
            raise

    # --- in the process that trains -----------------------------------------------------------

    def can_take(self, x: Array) -> bool:
        """Whether there is room for x (N, C, H, W)."""
        return x.size <= self.images.size and len(x) * _OUTPUT_VALUES <= self.outputs.size

    def forward(self, x: Array) -> Array:
        """The logits (N, K) of all images x."""
        rows = x.strides[1] < x.strides[3]  # (H, W, N, C) or (N, C, H, W): as they are
        for rank in range(1, self.group.size):
            share = self.group.share_of(rank, len(x))
            np.copyto(self._images(share, x.shape, rows), x[share])
        step = self.drawing[0].step if self.drawing else 0
        self.order[:] = (_FORWARD, *x.shape, rows, self.module.training, step)
        self.group.meet()
        with self._at_work(len(x)) as share:
            own = self.module(x[share])
            self.group.meet()
        logits = np.empty((len(x), *own.shape[1:]), own.dtype)
        logits[...] = self._outputs(slice(0, len(x)), own.shape[1])
        logits[share] = own
        return logits

    def backward(self, grad_output: Array) -> None:
        """All gradients, from that of the logits (N, K)."""
        n, k = grad_output.shape
        self._outputs(slice(0, n), k)[...] = grad_output
        self.order[:3] = _BACKWARD, n, k
        self.group.meet()
        with self._at_work(n) as share:
            self.module.backward(np.ascontiguousarray(grad_output[share]))
            self.group.meet()
        for gradients in self.gradients:
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                add_in_place(parameter.grad, gradient)

    def peak_bytes(self) -> int:
        """The memory that exists because of the helpers alone."""
        self.order[0] = _PEAK
        self.group.meet()
        self.group.meet()
        return int(self.peaks.sum())

    def end(self) -> None:
        """Kill the helpers: they hold nothing that is not here."""
        _end(self.pids, self.parent)

    def _look(self, rank: int) -> None:
        """Raise if any helper has ended: the one that this process waits for may wait for it."""
        if any(_has_ended(pid) for pid in self.pids):
            said = bytes(self.message).rstrip(b"\0").decode(errors="replace")
            what = said or "it was killed; is there enough memory? --processes 1 needs less"
            raise DeviceError(f"a process that shared the batch ended early: {what}")

    @contextmanager
    def _at_work(self, images: int) -> Iterator[slice]:
        """Share a batch of `images`; this process's share, and its share of the threads."""
        before, options.threads = options.threads, self.threads
        try:
            with sharing(self.group, images) as share:
                yield share
        finally:
            options.threads = before

    # --- in a helper --------------------------------------------------------------------------

    def _fork(self, rank: int) -> int:
        """Fork the helper `rank`; its process number."""
        parent = os.getpid()
        # Held back until the helper ignores them: it must not unwind what is its parent's.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # other threads: they are idle
                pid = os.fork()
        finally:
            if os.getpid() == parent:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if pid:
            return pid
        try:
            for number in _IGNORED:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
            if os.getppid() == parent:
                self._serve(rank)
        except BaseException as error:
            self._report(error)
        finally:
            os._exit(1)  # nothing of the parent's is to be closed or written twice

    def _serve(self, rank: int) -> None:
        """Follow orders until killed."""
        self.group.rank = rank
        self.group.look = lambda rank: None
        for parameter, gradient in zip(self.parameters, self.gradients[rank - 1], strict=True):
            parameter.zero_grad()
            parameter._grad = gradient
        common = [buffer.data for buffer in self.buffers]  # the parent's, for it to write
        own = [data.copy() for data in common]
        training = None
        while True:
            self.group.meet()
            order = self.order.tolist()
            if order[0] == _FORWARD:
                shape, rows, mode, step = tuple(order[1:5]), *order[5:8]
                if bool(mode) != training:
                    training = bool(mode)
                    self.module.train(training)
                    for buffer, data in zip(self.buffers, own if mode else common, strict=True):
                        buffer.data = data
                if mode:
                    for copy, data in zip(own, common, strict=True):
                        copy[...] = data  # frozen batch norm reads them in training too
                for module in self.drawing:
                    module.step = step
                self.module.zero_grad()
                with self._at_work(shape[0]) as share:
                    y = self.module(self._images(share, shape, rows))
                    self._outputs(share, y.shape[1])[...] = y
            elif order[0] == _BACKWARD:
                with self._at_work(order[1]) as share:
                    self.module.backward(self._outputs(share, order[2]).copy())
                for parameter in self.parameters:
                    _ = parameter.grad  # zeros where none came
            else:
                self.peaks[rank] = _own_bytes()
            self.group.meet()

    def _report(self, error: BaseException) -> None:
        text = traceback.format_exception_only(error)[-1].strip().encode()[:_MESSAGE_BYTES]
        with contextlib.suppress(Exception):
            self.message[: len(text)] = np.frombuffer(text, np.uint8)

    # --- in both ------------------------------------------------------------------------------

    def _images(self, share: slice, shape: tuple[int, ...], rows: int) -> np.ndarray:
        """The place of some images of a batch (N, C, H, W); `rows`: in memory order (H, W, N, C)"""
        values, count = math.prod(shape[1:]), share.stop - share.start
        flat = self.images[share.start * values : share.stop * values]
        if not rows:
            return flat.reshape(count, *shape[1:])
        return flat.reshape(*shape[2:], count, shape[1]).transpose(2, 3, 0, 1)

    def _outputs(self, share: slice, values: int) -> np.ndarray:
        """The place of some images' logits, or of their gradients: (n, values)."""
        if values > _OUTPUT_VALUES:
            raise ValueError(f"{values} values of output; there is room for {_OUTPUT_VALUES}")
        return self.outputs[share.start * values : share.stop * values].reshape(-1, values)


def _shared_like(parameters: list[Parameter]) -> list[np.ndarray]:
    """Zeros in the shapes and memory orders of `parameters`, in memory that processes share."""
    flat = shared_zeros(sum(p.size for p in parameters), np.float32)
    arrays, start = [], 0
    for parameter in parameters:
        data, piece = parameter.data, flat[start : start + parameter.size]
        order = sorted(range(data.ndim), key=lambda axis: -data.strides[axis])
        array = piece.reshape([data.shape[axis] for axis in order])
        arrays.append(array.transpose([order.index(axis) for axis in range(data.ndim)]))
        start += parameter.size
    return arrays


def _end(pids: list[int], parent: int) -> None:
    """Kill the processes that `parent` forked, if this is it and not one of them."""
    if os.getpid() != parent:
        return
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    pids.clear()


def _has_ended(pid: int) -> bool:
    """Whether this child has ended; its number stays taken until `_end` buries it."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # somebody else has buried it
        return True


def _own_bytes() -> int:
    """The most memory that this process has had for itself, not common with its parent."""
    fields = {}
    for name in ("smaps_rollup", "status"):
        for line in Path(f"/proc/self/{name}").read_text().splitlines():
            key, _, value = line.partition(":")
            if value.endswith("kB"):
                fields[key] = 1024 * int(value.split()[0])
    return fields["Private_Dirty"] + max(0, fields["VmHWM"] - fields["VmRSS"])
