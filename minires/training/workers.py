"""The processes that compute a network together with this one: forked, given orders, ended.

An order is a row of integers in memory that all share. After it each process computes its images'
part, and all meet again when the answers are there.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import traceback
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from minires.backend import Array, is_shared, options, shared_zeros
from minires.errors import DeviceError
from minires.nn import Module, Parameter
from minires.processes import ProcessGroup, sharing

_FORWARD, _BACKWARD, _PEAK = range(1, 4)
_ORDER_VALUES = 8
_OUTPUT_VALUES = 4096  # of an image, at most; memory that is not touched costs nothing
_MESSAGE_BYTES = 4000
_IGNORED = signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, linux/prctl.h


class Workers:
    """The forked processes, and what lies between them and this one.

    There is room for batches of `batch_size` images of `image_values` values. A worker that ends
    early raises `DeviceError`; that there can be none raises `OSError`.
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
        self.weights = [(p, p.data) for _, p in module.named_parameters()]
        self.parameters = [p for p, _ in self.weights if not p.frozen]
        _share_gradients(self.parameters)
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
        """Whether there is room for x (N, C, H, W), and no optimizer has moved the weights."""
        room = x.size <= self.images.size and len(x) * _OUTPUT_VALUES <= self.outputs.size
        return room and all(parameter.data is data for parameter, data in self.weights)

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

    def peak_bytes(self) -> int:
        """The memory that exists because of the workers alone."""
        self.order[0] = _PEAK
        self.group.meet()
        self.group.meet()
        return int(self.peaks.sum())

    def end(self) -> None:
        """Kill the workers: they hold nothing that is not here."""
        _end(self.pids, self.parent)

    def _look(self, rank: int) -> None:
        """Raise if any worker has ended: the one that this process waits for may wait for it."""
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

    # --- in a worker --------------------------------------------------------------------------

    def _fork(self, rank: int) -> int:
        """Fork the worker `rank`; its process number."""
        parent = os.getpid()
        # Held back until the worker ignores them: it must not unwind what is its parent's.
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
        common = [buffer.data for buffer in self.buffers]  # the parent's, for it to write
        statistics = common, [data.copy() for data in common]
        training = None
        while True:
            self.group.meet()
            what, *order = self.order.tolist()
            if what == _FORWARD:
                if training != bool(order[5]):
                    training = bool(order[5])
                    self.module.train(training)
                self._take_statistics(training, *statistics)
                self._forward_part(tuple(order[:4]), rows=order[4], step=order[6])
            elif what == _BACKWARD:
                self._backward_part(*order[:2])
            else:
                self.peaks[rank] = _own_bytes()
            self.group.meet()

    def _take_statistics(self, training: bool, common: list, own: list) -> None:
        """In evaluation batch norm reads the common statistics; in training it writes its own."""
        for buffer, shared, copy in zip(self.buffers, common, own, strict=True):
            buffer.data = copy if training else shared
            if training:
                copy[...] = shared  # frozen batch norm reads them in training too

    def _forward_part(self, shape: tuple[int, ...], rows: int, step: int) -> None:
        """The logits of this process's images, of a batch of `shape` (N, C, H, W)."""
        for module in self.drawing:
            module.step = step
        with self._at_work(shape[0]) as share:
            y = self.module(self._images(share, shape, rows))
            self._outputs(share, y.shape[1])[...] = y

    def _backward_part(self, images: int, values: int) -> None:
        """The gradients that this process's images give, of a batch with `values` logits each."""
        with self._at_work(images) as share:
            self.module.backward(self._outputs(share, values).copy())

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


def _share_gradients(parameters: list[Parameter]) -> None:
    """Move gradients into memory that processes share, unless an optimizer has put them there.

    A parameter whose gradient has been looked at adds whatever comes, until its next `zero_grad`.
    Workers never call that, so theirs is always added to what the processes before them gave.
    """
    for parameter in parameters:
        if not is_shared(parameter.grad):
            shared = shared_zeros(parameter.size, parameter.data.dtype)
            parameter.rehome(parameter.data, shared.reshape(parameter.shape))


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
