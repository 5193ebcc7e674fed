"""The workers that share a batch: how they end, and what can go wrong."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shared_batch import BATCH, IN_TWO_PROCESSES, Batches, batch, children, make

from minires import devices
from minires.errors import DeviceError
from minires.nn import Parameter
from minires.processes import first_image
from minires.training.data_parallel import DataParallel
from minires.training.loop import Callback, Trainer

pytestmark = IN_TWO_PROCESSES


def test_a_training_that_is_over_has_no_workers():
    model, optimizer = make()
    trainer = Trainer(
        model=model, optimizer=optimizer, schedule=lambda step: 0.01, train_loader=Batches(),
        val_loader=Batches(), num_classes=10, epochs=1, device=devices.select_device("cpu", 2),
        callbacks=[seen := Children()],
    )  # fmt: skip
    trainer.fit()
    assert seen.most == 1
    assert children() == []


class Children(Callback):
    """Counts the processes while a training runs."""

    most = 0

    def on_step(self, trainer):
        self.most = max(self.most, len(children()))


def test_a_network_that_is_forgotten_takes_its_workers_along():
    network = DataParallel(make()[0], BATCH)
    network(batch()[0])
    assert len(children()) == 1
    del network
    gc.collect()
    assert children() == []


def test_another_fork_of_this_process_ends_no_workers():
    network = DataParallel(make()[0], BATCH)
    before = network(batch()[0])
    pid = os.fork()
    if pid == 0:
        network.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert len(children()) == 1
    np.testing.assert_array_equal(network(batch()[0]), before)
    network.close()


# --- what can go wrong ------------------------------------------------------------------------


def test_a_killed_worker_is_one_clear_error():
    model, _ = make()
    with DataParallel(model, BATCH) as network:
        network(batch()[0])
        os.kill(int(children()[0]), signal.SIGKILL)
        with pytest.raises(DeviceError, match="ended early: it was killed"):
            network(batch()[0])
        assert children() == []
        assert network(batch()[0]).shape == (BATCH, 10)  # with a new one


def test_a_killed_worker_is_noticed_while_another_is_waited_for(monkeypatch):
    monkeypatch.setattr("minires.training.data_parallel.LEAST_IMAGES", BATCH // 3)
    devices.select_device("cpu", threads=3)
    model, _ = make()
    with DataParallel(model, BATCH) as network:
        network(batch()[0])
        group = network._workers.group
        group.look(1)
        last = children()[1]
        os.kill(int(last), signal.SIGKILL)
        assert has_ended(last)
        with pytest.raises(DeviceError, match="was killed"):
            group.look(1)
        assert last in children()  # its number is not given to another process before it is buried


def signals_of(pid, key):
    """The signals that a field of /proc/PID/status names."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            mask = int(line.split()[1], 16)
            return {s for s in signal.Signals if mask >> (s - 1) & 1}
    raise AssertionError(key)


def test_a_signal_never_unwinds_a_worker(monkeypatch):
    held_back, fork = [], os.fork

    def note():
        held_back.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return fork()

    monkeypatch.setattr(os, "fork", note)
    ignored = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    model, _ = make()
    with DataParallel(model, BATCH) as network:
        network(batch()[0])
        (worker,) = children()
        assert ignored <= held_back[0]
        assert ignored <= signals_of(worker, "SigIgn")
        assert not ignored & signals_of(worker, "SigBlk")
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
        for number in ignored:
            os.kill(int(worker), number)
        assert network(batch()[0]).shape == (BATCH, 10)
        assert children() == [worker]


def test_an_error_in_a_worker_is_told():
    model, _ = make()
    parent, forward = os.getpid(), model.fc.forward

    def fails_elsewhere(x):
        if os.getpid() != parent:
            raise MemoryError("no room for 3 GB")
        return forward(x)

    model.fc.forward = fails_elsewhere
    with (
        DataParallel(model, BATCH) as network,
        pytest.raises(DeviceError, match="ended early: MemoryError: no room for 3 GB"),
    ):
        network(batch()[0])


def test_an_error_in_a_worker_whose_turn_another_waits_for_is_told(monkeypatch):
    monkeypatch.setattr("minires.training.data_parallel.LEAST_IMAGES", BATCH // 3)
    devices.select_device("cpu", threads=3)
    model, _ = make()
    accumulate = Parameter.accumulate

    def fails_in_the_second(self, grad):
        if first_image() == BATCH // 3:
            raise MemoryError("no room for 3 GB")
        accumulate(self, grad)

    monkeypatch.setattr(Parameter, "accumulate", fails_in_the_second)
    with DataParallel(model, BATCH) as network:
        network(batch()[0])
        assert len(children()) == 2
        with pytest.raises(DeviceError, match="ended early: MemoryError: no room for 3 GB"):
            network.backward(np.ones((BATCH, 10), np.float32))
        assert children() == []


def test_an_error_here_ends_the_workers():
    model, _ = make()

    def fails(grad):
        raise KeyboardInterrupt

    with DataParallel(model, BATCH) as network:
        logits = network(batch()[0])
        model.fc.backward = fails
        with pytest.raises(KeyboardInterrupt):
            network.backward(logits)
        assert children() == []


def test_without_processes_to_be_had_it_goes_on_alone(monkeypatch):
    def refuse():
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    model, _ = make()
    with DataParallel(model, BATCH) as network:
        assert network(batch()[0]).shape == (BATCH, 10)


def has_ended(pid, within=60.0):
    """Whether process `pid` ends in so many seconds, or is no more."""
    try:
        handle = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return True
    ready, _, _ = select.select([handle], [], [], within)
    os.close(handle)
    return bool(ready)


DIES = """
import os, signal
import numpy as np
from minires.devices import select_device
from minires.models import build
from minires.training.data_parallel import DataParallel
select_device("cpu", threads=2)
network = DataParallel(build("resnet8", width=0.25), 64)
network(np.zeros((64, 3, 32, 32), np.float32))
print(*open(f"/proc/self/task/{os.getpid()}/children").read().split(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_die_with_the_process_that_forked_them():
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", DIES],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.split()) == 1
    assert all(has_ended(pid) for pid in done.stdout.split())
